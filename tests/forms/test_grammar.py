"""Answers keep the form that was asked for, and change nothing for their neighbours."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from copy import copy
from pathlib import Path

import pytest
from descendants import left
from hypothesis import given, settings
from hypothesis import strategies as st

from mossvl import SamplingParams
from mossvl.errors import GenerationCancelled, GenerationTimeout, OptionError, ResourceError
from mossvl.forms import grammar

SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["star", "ring"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["kind", "count"],
    "additionalProperties": False,
}
FORMS = st.recursive(
    st.sampled_from(["a", "[0-9]", "(left|right)", "é", r"\."]),
    lambda inner: st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("({}|{})".format, inner, inner),
        st.builds("({})?".format, inner),
    ),
    max_leaves=5,
)


@given(form=FORMS, seed=st.integers(0, 99))
@settings(max_examples=15)
def test_whole_answers_match_a_regular_expression(loaded_llm, form, seed):
    params = SamplingParams(regex=form, temperature=1.0, seed=seed, max_new_tokens=60)
    result = loaded_llm.generate("Say it.", params)
    assert result.finish_reason == "stop"
    assert re.fullmatch(form, result.text)


@pytest.fixture(scope="module")
def loaded_llm(model, processor):
    import mossvl

    with mossvl.MossVL(model, processor, memory=1 << 24) as llm:
        yield llm


@pytest.mark.parametrize("schema", [SCHEMA, json.dumps(SCHEMA)])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_json_of_a_schema(llm, schema, temperature):
    params = SamplingParams(json_schema=schema, temperature=temperature, n=3, max_new_tokens=200)
    for answer in llm.generate("Say it.", params).answers:
        said = json.loads(answer.text)
        assert said.keys() == {"kind", "count"} and said["kind"] in ("star", "ring") and 0 <= said["count"] <= 99


def test_neighbours_are_answered_as_alone(llm):
    free = SamplingParams(max_new_tokens=12)
    formed = SamplingParams(regex="[a-z]{20}", repetition_penalty=1.3, max_new_tokens=40)
    queries = ["One?", "Two?", "Three?"]
    together = llm.generate(queries, [free, formed, free])
    alone = [llm.generate(query, params) for query, params in zip(queries, [free, formed, free], strict=True)]
    assert [one.text for one in together] == [one.text for one in alone]
    assert re.fullmatch("[a-z]{20}", together[1].text)


def test_an_answer_that_is_too_long_for_its_room_is_cut(llm):
    result = llm.generate("Say it.", SamplingParams(regex="[a-z]{50}", max_new_tokens=5))
    assert result.finish_reason == "length" and re.fullmatch("[a-z]+", result.text)


def test_a_query_that_is_preempted_keeps_its_form(make):
    llm = make(memory=1 << 19, max_batch=4, prefix_cache=False)
    params = SamplingParams(regex="[0-9]{60}", temperature=1.0, max_new_tokens=100)
    results = llm.generate([f"Number {number}?" for number in range(6)], params)
    assert all(re.fullmatch("[0-9]{60}", result.text) for result in results)
    assert llm.engine.scheduler.preemptions


def test_queries_may_have_a_form(model, processor):
    query = {"prompt": "Say it.", "generate_kwargs": {"json_schema": SCHEMA, "max_new_tokens": 200}}
    result = model.offline_batch_generate(processor, [query])
    assert json.loads(result["results"][0]["text"])["kind"] in ("star", "ring")
    model.close_engine()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"regex": "("}, "regex='\\('"),
        ({"regex": 5}, "must be a text"),
        ({"json_schema": "{"}, "not JSON"),
        ({"json_schema": "[1]"}, "must be a dict"),
        ({"json_schema": {"type": "nothing"}}, "json_schema="),
        ({"json_schema": {}, "regex": "a"}, "exclude each other"),
        ({"regex": "a", "ignore_eos": True}, "exclude each other"),
    ],
)
def test_what_is_no_form_is_refused(given, message):
    with pytest.raises(OptionError, match=message):
        SamplingParams(**given)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"regex": r"[^\s\S]"}, "nothing can match it"),
        ({"regex": r"x[^\s\S]|[^\s\S]"}, "nothing can match it"),
        ({"json_schema": {"$ref": "#"}}, "nothing can match it"),
        ({"json_schema": {"enum": []}}, "nothing can match it: anyOf is empty"),
        ({"json_schema": {"minimum": 5, "maximum": 1, "type": "integer"}}, "nothing can match it: minimum (5) is"),
        ({"json_schema": {"type": "string", "pattern": r"[^\s\S]"}}, "nothing can match it"),
        ({"regex": "é(b"}, "unclosed group (in a regular expression)"),
        ({"regex": "error: ("}, "unclosed group (in a regular expression)"),
        ({"regex": "[z-a]"}, "invalid character class range, the start must be <= the end (in a regular expression)"),
        ({"regex": r"\bthe\b"}, r"look-around, such as \b, is not supported (in a regular expression)"),
        ({"json_schema": {"pattern": "(", "type": "string"}}, "unclosed group (in a regular expression)"),
        ({"json_schema": {"not": {}}}, 'its keys "not" are not supported'),
        ({"json_schema": {"$ref": "http://x/y"}}, "$ref 'http://x/y' is not within it, and nothing else is read"),
        ({"json_schema": {"$ref": "#/nope"}}, "$ref names '/nope', which it does not have"),
        ({"json_schema": {"type": "nothing"}}, "Invalid type: nothing"),
    ],
)
def test_why_a_form_is_none_is_told_in_the_words_of_who_gave_it(given, reason):
    with pytest.raises(OptionError) as refused:
        SamplingParams(**given)
    told = str(refused.value)
    assert told.startswith(f"{next(iter(given))}=") and f" cannot be used: {reason}" in told
    for foreign in ("at 1(", "start:", "NoExtension", "Unsatisfiable", "SearchRegex", "retriever", "  "):
        assert foreign not in told.partition(" cannot be used: ")[2]


def test_that_a_form_is_too_large_for_the_library_is_told_as_that(llm):
    result = llm.submit("Say it.", SamplingParams(regex="a{1000000}")).wait(60)
    assert str(result.error) == "the form of the answer cannot be used: it is too large; give a simpler form"


# --- evil forms ----------------------------------------------------------------------------------------------------

MANY_PATTERNS = {"type": "string", "allOf": [{"pattern": f"^.*a.{{{n}}}.*$"} for n in range(1, 23)]}
EVIL = {
    "product": {"json_schema": MANY_PATTERNS},
    "remainder": {"json_schema": {"type": "integer", "multipleOf": 99_999_991}},
    "repetition": {"regex": "(a{1000}){1000}"},
    "options": {"regex": "(" + "a?" * 3000 + ")" + "a" * 3000},
}


COSTS = (
    "the form of the answer cannot be used: (it is too large|to find out (the form|what may follow a token) takes more "
    "than ((1|2) seconds of a core's time|64 MiB of memory)); give a simpler form"
)


def test_what_an_evil_form_is_worth_a_line_to_the_library_is_not_written_among_ours(make, capfd, monkeypatch):
    monkeypatch.setattr(grammar, "MEMORY", 16 << 20)
    handle = make().submit("Say it.", SamplingParams(**EVIL["product"], max_new_tokens=50))
    assert "the form of the answer cannot be used" in str(handle.wait(60).error)
    assert none_left()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("form", EVIL.values(), ids=EVIL)
def test_a_form_that_costs_too_much_ends_its_own_answer_while_others_go_on(form, make, monkeypatch):
    monkeypatch.setattr(grammar, "SECONDS", 1.0)
    monkeypatch.setattr(grammar, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(grammar, "MEMORY", 64 << 20)
    llm = make(max_batch=4)
    expected = llm.generate("yes", SamplingParams(max_new_tokens=200, ignore_eos=True)).token_ids
    evil = llm.submit("Say it.", SamplingParams(**form, max_new_tokens=50))
    beside = llm.submit("yes", SamplingParams(max_new_tokens=200, ignore_eos=True))
    assert beside.result(60).token_ids == expected
    assert re.match(COSTS, str(evil.wait(60).error))
    assert isinstance(evil.error, OptionError)
    assert llm.generate("Say it.", SamplingParams(regex="[a-z]{5}", max_new_tokens=9)).finish_reason == "stop"


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def followers():
    """Processes that follow grammars for this one: those that its templates have forked."""
    parents, templates = {}, set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            number, parent = int(process.name), int((process / "stat").read_text().rpartition(") ")[2].split()[1])
            parents[number] = parent
            if parent == os.getpid() and str(grammar.PROGRAM) in (process / "cmdline").read_text():
                templates.add(number)
    return [number for number, parent in parents.items() if parent in templates]


def none_left(seconds=20.0):
    deadline = time.monotonic() + seconds
    while followers() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not followers()


@needs_proc
@pytest.mark.parametrize("stage", ["preparing", "answering"])
@pytest.mark.parametrize("ending", ["cancelled", "too late"])
def test_the_process_of_a_form_ends_with_its_query(stage, ending, llm):
    assert none_left()
    form = EVIL["remainder"] if stage == "preparing" else {"regex": "[a-z]*"}
    options = {**form, "max_new_tokens": 100_000, "n": 2, "timeout": 1.0 if ending == "too late" else 100}
    handle = llm.submit({"prompt": "Say it.", "generate_kwargs": options})
    while not followers() and not handle.ended:
        time.sleep(0.01)
    while stage == "answering" and not handle.drafts[0].tokens and not handle.ended:
        time.sleep(0.01)
    if ending == "cancelled":
        handle.cancel()
    assert isinstance(handle.wait(30).error, GenerationCancelled if ending == "cancelled" else GenerationTimeout)
    assert none_left()


def test_a_template_that_was_killed_is_replaced_and_leaves_nothing_behind(llm):
    params = SamplingParams(regex="[a-z]{5}", max_new_tokens=9)
    expected = llm.generate("Say it.", params).text
    (template,) = llm.engine.grammars._templates.values()
    process, control = template.process, template._control
    for _ in range(3):
        template.process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, template.process.pid, os.WEXITED | os.WNOWAIT)  # It is dead, and its end still to be taken.
        assert llm.generate("Say it.", params).text == expected
    assert process.returncode == -signal.SIGKILL
    assert control.fileno() == -1


ENDLESS = {"prompt": "Say it.", "generate_kwargs": {"regex": "[a-z]*", "max_new_tokens": 100_000}}


def answering(llm):
    """A query of an endless form that has begun to be answered, and its process."""
    assert none_left()
    handle = llm.submit(ENDLESS)
    while not handle.drafts[0].tokens:
        time.sleep(0.01)
    (process,) = followers()
    return handle, process


@needs_proc
@pytest.mark.parametrize("template", ["alive", "killed"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_from_outside_is_not_told_as_the_fault_of_its_form(number, template, llm):
    handle, process = answering(llm)
    if template == "killed":
        (own,) = llm.engine.grammars._templates.values()
        own.process.kill()
        own.process.wait()
    os.kill(process, number)
    error = handle.wait(60).error
    assert isinstance(error, ResourceError) and "was ended from outside" in str(error)
    assert ("status" in str(error)) == (template == "alive")
    assert llm.generate("Say it.", SamplingParams(regex="[a-z]{5}", max_new_tokens=9)).finish_reason == "stop"


@needs_proc
def test_a_process_that_says_nothing_is_given_up_and_ended(llm, monkeypatch):
    monkeypatch.setattr(grammar, "LONGEST_WAIT", 1.0)
    handle, process = answering(llm)
    os.kill(process, signal.SIGSTOP)
    error = handle.wait(60).error
    assert isinstance(error, ResourceError) and "has said nothing for 1 seconds" in str(error)
    assert none_left()


def test_a_wait_for_something_else_is_not_one_for_the_process():
    follower = grammar.Follower(lambda: None, "", 2)
    assert follower.overdue(1e12) is None
    follower._asked = {0: 100.0, 1: 110.0}
    assert follower.overdue(100 + grammar.LONGEST_WAIT - 1) is None
    assert isinstance(follower.overdue(100 + grammar.LONGEST_WAIT), ResourceError)
    follower._asked.pop(0)
    assert follower.overdue(100 + grammar.LONGEST_WAIT) is None


def children_and_files(process):
    """Processes whose parent is this one, ended ones too, and files that it has open."""
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rpartition(") ")[2].split()[1]) == process:
                children.append(path.parent.name)
    return children, len(os.listdir(f"/proc/{process}/fd"))


@needs_proc
def test_200_forms_leave_no_process_and_no_socket(make):
    llm = make(max_batch=16)
    params = SamplingParams(regex="[a-z]{3}", max_new_tokens=9)
    assert llm.generate("Say it.", params).finish_reason == "stop"
    (template,) = (one.process.pid for one in llm.engine.grammars._templates.values())
    assert none_left()
    gc.collect()
    before, own = children_and_files(template), children_and_files(os.getpid())[1]
    handles = [llm.submit("Say it.", params) for _ in range(200)]
    for handle in handles[::7]:
        handle.cancel()
    for handle in handles:
        error = handle.wait(120).error
        assert error is None or isinstance(error, GenerationCancelled)
    assert none_left()
    deadline = time.monotonic() + 20
    while children_and_files(template) != before or children_and_files(os.getpid())[1] > own:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert before[0] == []


@pytest.mark.parametrize("levels", [130, 140, 180, 1000, 10_000, 100_000])
@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("inner", ["items", "anything"])
def test_a_schema_that_is_nested_too_deeply_is_refused(levels, as_text, inner):
    schema = {}
    for _ in range(levels):
        schema = {inner: schema}
    if as_text:
        schema = f'{{"{inner}": ' * levels + "{}" + "}" * levels
    with pytest.raises(OptionError, match="nested too deeply"):
        SamplingParams(json_schema=schema)


@pytest.mark.parametrize("schema", [{"const": 10**5000}, {"const": "\ud800"}, {"const": float("nan")}, {"const": {1}}])
def test_a_schema_that_no_text_can_hold_is_refused(schema):
    with pytest.raises(OptionError, match="json_schema="):
        SamplingParams(json_schema=schema)


def test_a_tokenizer_that_no_form_can_be_followed_with_is_told(model, processor):
    import mossvl

    config = copy(model.generation_config)
    config.eos_token_id = 10**6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "generation_config", config)
        with mossvl.MossVL(model, processor, memory=1 << 24) as llm:
            result = llm.submit("Say it.", SamplingParams(regex="a", max_new_tokens=3)).wait(60)
    assert isinstance(result.error, OptionError) and "1000000 is out of range" in str(result.error)


KILLED = """
import os, signal
from pathlib import Path
from mossvl.forms.grammar import Template, ask
template = Template(None)
replies = ask(template.fork(), 'start: "a"', 1, 5.0)
next(replies)
(child,) = Path(f"/proc/{template.process.pid}/task/{template.process.pid}/children").read_text().split()
pids = [int(child), template.process.pid]
print(*pids, flush=True)
for pid in pids:
    os.kill(pid, signal.SIGSTOP)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_stopped_processes_end_when_the_one_that_they_are_for_is_killed(tmp_path):
    told = tmp_path / "told"
    with told.open("w") as file:
        subprocess.run([sys.executable, "-c", KILLED], stdout=file, timeout=300, check=False)
    pids = list(map(int, told.read_text().split()))
    assert len(pids) == 2 and not left(pids)
