"""A conversation is the same example in whatever form other tools write it."""

import base64
import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mossvl.data.forms import form_of
from mossvl.data.records import as_example, as_query, unread_keys
from mossvl.errors import DataError
from mossvl.options import MediaOptions
from mossvl.processing.messages import check_messages
from mossvl.training.examples import encode

ROOT = Path(__file__).parents[2]
COLOURS = ["red", "green", "blue"]
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), min_size=1, max_size=8).filter(
    lambda text: text.strip() and text == text.strip()
)
QUESTIONS = WORDS | st.builds("{}\n{}".format, WORDS, WORDS)
TURNS = st.lists(st.tuples(st.lists(st.sampled_from(COLOURS), max_size=2), QUESTIONS, WORDS), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds a picture of each colour."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, colour in enumerate(COLOURS, 2):
        Image.new("RGB", (16 * number, 32), colour).save(folder / f"{colour}.png")
    return folder


# --- writers: turns, each of pictures, question and answer, and a system prompt → a record ---------------------------


def marked(turns, mark="<image>"):
    return [(mark * len(pictures) + question, answer) for pictures, question, answer in turns]


def pictures(turns):
    return [f"{name}.png" for names, _, _ in turns for name in names]


def dialogue(turns, system, asks, says, role, content):
    told = [{role: "system", content: system}] if system else []
    pairs = [({role: asks, content: question}, {role: says, content: answer}) for question, answer in turns]
    return told + [turn for pair in pairs for turn in pair]


def in_parts(turns, system, part):
    turns = [([*map(part, names), {"type": "text", "text": text}], answer) for names, text, answer in turns]
    return {"messages": dialogue(turns, system, "user", "assistant", "role", "content")}


def sharegpt(turns, system, folder):
    return {
        "conversations": dialogue(marked(turns), system, "human", "gpt", "from", "value"),
        "images": pictures(turns),
    }


def llava(turns, system, folder):
    own = dialogue(marked(turns), None, "human", "gpt", "from", "value")
    return {"id": "7", "conversations": own, "image": pictures(turns), "system": system}


def columns(turns, system, folder):
    turned = dialogue(marked(turns), system, "user", "assistant", "role", "content")
    table = {name: [turn[name] for turn in turned] for name in ("role", "content")}
    return {"messages": table, "images": pictures(turns)}


def messages(turns, system, folder):
    turned = dialogue(marked(turns, "<|image|>"), system, "user", "assistant", "role", "content")
    return {"messages": turned, "images": [{"path": name, "bytes": None} for name in pictures(turns)]}


def placeholders(turns, system, folder):
    return {**in_parts(turns, system, lambda _: {"type": "image", "text": None}), "images": pictures(turns)}


def image_urls(turns, system, folder):
    return in_parts(turns, system, lambda name: {"type": "image_url", "image_url": {"url": f"{name}.png"}})


def contents(turns, system, folder):
    files = [{"bytes": (folder / name).read_bytes(), "path": name} for name in pictures(turns)]
    return {**sharegpt(turns, system, folder), "images": files}


def raw(turns, system, folder):
    return {**sharegpt(turns, system, folder), "images": [(folder / name).read_bytes() for name in pictures(turns)]}


def base64s(turns, system, folder):
    files = [base64.b64encode((folder / name).read_bytes()).decode() for name in pictures(turns)]
    return {**messages(turns, system, folder), "images": [{"bytes": one, "path": None} for one in files]}


def swift(turns, system, folder):
    *history, (query, response) = marked(turns)
    history = [list(pair) for pair in history]
    return {"query": query, "response": response, "history": history, "system": system, "images": pictures(turns)}


def alpaca(turns, system, folder):
    *history, (instruction, output) = marked(turns)
    first, _, rest = instruction.partition("\n")
    asked = {"instruction": first, "input": rest} if first and rest else {"instruction": instruction, "input": ""}
    return {**asked, "output": output, "history": history, "system": system, "images": pictures(turns)}


def completion(turns, system, folder):
    *prompt, answer = messages(turns, system, folder)["messages"]
    return {"prompt": prompt, "completion": [answer], "images": pictures(turns)}


def response(turns, system, folder):
    [(prompt, answer)] = marked(turns[:1]) if len(turns) == 1 else [(None, None)]
    return prompt and {"prompt": prompt, "response": answer, "system_prompt": system, "images": pictures(turns)}


FORMS = {
    sharegpt: "conversations (ShareGPT, LLaVA)", llava: "conversations (ShareGPT, LLaVA)", columns: "messages (OpenAI)",
    messages: "messages (OpenAI)", placeholders: "messages (OpenAI)", image_urls: "messages (OpenAI)",
    contents: "conversations (ShareGPT, LLaVA)", raw: "conversations (ShareGPT, LLaVA)", base64s: "messages (OpenAI)",
    swift: "query and response (ms-swift)", alpaca: "instruction and output (Alpaca)",
    completion: "prompt and completion (TRL)", response: "prompt and response",
}  # fmt: skip


@settings(max_examples=40)
@given(turns=TURNS, system=st.none() | WORDS)
def test_every_form_gives_the_same_example(turns, system, folder, processor):
    own = in_parts(turns, system, lambda name: {"type": "image", "image": f"{name}.png"})
    expected = encode(processor, as_example(own, folder), MediaOptions())
    for write, name in FORMS.items():
        record = write(turns, system, folder)
        if record is None:
            continue
        found = encode(processor, as_example(record, folder), MediaOptions())
        assert form_of(record).name == name
        assert set(unread_keys(record)) <= {"id"}
        for value in ("input_ids", "labels", "pixels"):
            assert torch.equal(getattr(found, value), getattr(expected, value)), write.__name__
        assert found.grids == expected.grids


@settings(max_examples=40)
@given(turns=TURNS, system=st.none() | WORDS, write=st.sampled_from([swift, alpaca, completion, llava]))
def test_a_question_is_the_example_without_its_answer(turns, system, write, folder):
    record = write(turns, system, folder)
    *asked, _ = as_example(record, folder)
    query = as_query(record, folder)
    told = [{"role": "system", "content": query["system_prompt"]}] if "system_prompt" in query else []
    assert check_messages([*told, *query["messages"]]) == check_messages(asked)


# --- what other tools mean, and what is refused ----------------------------------------------------------------------


def test_a_video_may_be_marked_as_an_image(folder):
    turns = [{"from": "human", "value": "<image>\nWhat happens?"}, {"from": "gpt", "value": "It falls."}]
    first = as_example({"conversations": turns, "video": "fall.mp4"}, folder)[0]
    assert first["content"][0] == {"type": "video", "video": str(folder / "fall.mp4")}
    with pytest.raises(DataError, match="0 video placeholders, but there are 1 videos"):
        as_example({"conversations": turns, "video": "fall.mp4", "images": ["a.png"]}, folder)


def test_bytes_of_a_video_are_read(folder):
    record = {"query": "<video>When?", "response": "Now.", "videos": [b"\0\0\0\x18ftyp"]}
    assert check_messages(as_example(record, folder))[0]["content"][0]["video"].startswith("data:;base64,AAAAGGZ0eXA")


PAIR = {"query": "What?", "response": "That."}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"query": "What?"}, "a record with 'query' needs 'response', too"),
        ({"instruction": "Look.", "input": "What?"}, "a record with 'instruction' needs 'output', too"),
        ({"instruction": "Look.", "input": 4, "output": "Yes."}, "input=4 must be a text"),
        ({"query": ["What?"], "response": "That."}, r"query=\['What\?'\] must be a text"),
        ({**PAIR, "response": 3}, "response=3 must be a text"),
        ({**PAIR, "history": "What?"}, "history='What\\?' must be a list of pairs"),
        ({**PAIR, "history": [["a", "b"], ["c"]]}, r"history: item 2 must be a question and an answer, both texts"),
        ({**PAIR, "history": [["a", None]]}, "history: item 1"),
        ({**PAIR, "system": ["Be brief."]}, r"system=\['Be brief.'\] must be a text"),
        ({**PAIR, "system": "a", "system_prompt": "b"}, "either system or system_prompt"),
        ({"prompt": "What?", "completion": [CALL]}, "completion=.* must be a text"),
        ({"prompt": "What?", "chosen": "That.", "rejected": "This."}, "'rejected' makes this a record of preferences"),
        ({"messages": [CALL], "rejected_response": "This."}, "not for supervised fine-tuning"),
        ({"messages": [{"role": "user", "content": "What?"}, CALL]}, "turn 2 has 'tool_calls': fine-tuning on"),
        ({"messages": [{"role": "tool", "content": "4"}]}, "turn 1 has the role 'tool': fine-tuning on tool calls"),
        ({"conversations": [{"from": "function_call", "value": "{}"}]}, "turn 1 has the role 'function_call'"),
        ({"messages": [{"role": "user", "content": "What?"}], "tools": [{"name": "f"}]}, "the record has 'tools'"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused_by_its_name(record, words, folder):
    with pytest.raises(DataError, match=words):
        as_example(record, folder)


def test_keys_of_another_form_are_not_read():
    record = {"messages": [], "query": "a", "input": "b", "history": [1], "output": "c", "id": 4, "tools": []}
    assert unread_keys(record) == ["query", "input", "history", "output", "id"]
    assert unread_keys({**PAIR, "history": [], "input": "x"}) == ["input"]


DOCUMENTED = re.findall(r"^\| (\S.*?) \| `(\{.*\})` \|$", (ROOT / "docs/training.md").read_text(), re.MULTILINE)


def test_all_forms_are_documented():
    assert {name for name, _ in DOCUMENTED if not name.startswith("…")} == set(FORMS.values())


@pytest.mark.parametrize(("name", "example"), DOCUMENTED)
def test_documented_examples_are_read(name, example, folder):
    record = json.loads(example)
    assert name.startswith("…") or form_of(record).name == name
    *_, question, answer = check_messages(as_example(record, folder))
    said = "".join(part.get("text", "") for part in question["content"])
    assert said.endswith("What is it?") and answer["content"] == "A square."
    assert [
        part["image"] for turn in as_query(record, folder)["messages"] for part in turn["content"] if "image" in part
    ] == [str(folder / "red.png")]
    assert unread_keys(record) == []
