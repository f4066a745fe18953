"""The plug-in's model classes, asked as lmms-eval asks them."""

import gc
import math
import weakref
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from mossvl import SamplingParams
from mossvl.checkpoints.default import CHECKPOINT
from mossvl.errors import MediaError, OptionError, PromptError

pytest.importorskip("lmms_eval", reason="no lmms-eval; .ci/clients installs it")
from lmms_eval.api.instance import Instance, unwrap_generation_output
from lmms_eval.caching.response_cache import ResponseCache
from lmms_eval.models import get_model

EXAMPLES = Path(__file__).parents[2] / "examples"
CLIP, SIGN = str(EXAMPLES / "clip.mp4"), str(EXAMPLES / "sign.png")
WHEN = {"visuals": [CLIP], "text": "When does the blue star appear?", "answer": "2.0 seconds"}
READ = {"visuals": [SIGN], "text": "What is written there?", "answer": "MOSS"}
GONE = {**READ, "visuals": ["gone.mp4"]}
DOCUMENTS = [WHEN, READ, GONE]
GREEDY = {"max_new_tokens": 24, "until": ["\n\n"], "do_sample": False}


def to_visual(document):
    return document["visuals"]


def to_messages(document):
    kinds = {".mp4": "video", ".png": "image"}
    media = [{"type": kinds[one[-4:]], "url": one} for one in document["visuals"]]
    return [{"role": "user", "content": [*media, {"type": "text", "text": document["text"]}]}]


def instance(arguments, kind="generate_until", number=0, **metadata):
    return Instance(kind, arguments, 0, {"task": "task", "doc_id": number, "repeats": 1, **metadata})


def chat(number, messages=to_messages, generation=GREEDY, **metadata):
    text = DOCUMENTS[number]["text"]
    return instance((text, messages, generation, number, "task", "test"), number=number, **metadata)


def simple(number, generation=GREEDY, visuals=to_visual):
    return instance((DOCUMENTS[number]["text"], generation, visuals, number, "task", "test"), number=number)


def continued(number, answer):
    arguments = (DOCUMENTS[number]["text"], answer, to_visual, number, "task", "test")
    return instance(arguments, "loglikelihood", number)


@pytest.fixture
def make():
    made = []

    def make(force_simple=False, **arguments):
        model = get_model("moss_vl", force_simple)(**{"checkpoint": str(CHECKPOINT), "device": "cpu", **arguments})
        model.task_dict["task"] = {"test": DOCUMENTS}
        made.append(model)
        return model

    yield make
    for model in made:
        if hasattr(model, "llm"):
            model.clean()


def asked(model, messages, **options):
    """What the engine answers to messages."""
    query = {"messages": messages, "media_kwargs": model.arguments.media, **options}
    return model.llm.generate(query, SamplingParams(max_new_tokens=24))


def test_answers_come_in_order_with_their_tokens(make):
    model = make(fps=2)
    outputs = model.generate_until([chat(1), chat(0), chat(1)])
    assert [one.text for one in outputs] == ["MOSS", "2.0 seconds", "MOSS"]
    for number, output in ((1, outputs[0]), (0, outputs[1])):
        usage = asked(model, to_messages(DOCUMENTS[number])).usage
        counts = output.token_counts
        assert (counts.input_tokens, counts.output_tokens) == (usage.prompt_tokens, usage.new_tokens)


def test_a_task_without_messages_is_answered_as_one_with_them(make):
    assert [one.text for one in make(True, fps=2).generate_until([simple(0), simple(1)])] == ["2.0 seconds", "MOSS"]
    picture = Image.open(SIGN)
    assert make(True).generate_until([simple(1, visuals=lambda document: [picture])])[0].text == "MOSS"


def test_an_argument_changes_what_is_seen(make):
    tokens = [make(nframes=frames).generate_until([chat(0)])[0].token_counts.input_tokens for frames in (1, 9)]
    assert tokens[1] > tokens[0] + 8


@pytest.mark.parametrize("name", ["max_frame", "video_fps"])
def test_an_unknown_argument_is_refused_before_anything_is_loaded(name):
    with pytest.raises(OptionError, match=f"unknown model argument '{name}'; did you mean"):
        get_model("moss_vl")(**{name: 1})


def test_a_request_that_fails_has_an_empty_answer_and_leaves_the_others(make):
    model = make(fps=2)
    assert [one.text for one in model.generate_until([chat(0), chat(2), chat(1)])] == ["2.0 seconds", "", "MOSS"]


def test_failures_are_told_at_once_and_counted_at_the_end(make, told):
    make(fps=2).generate_until([chat(2), chat(1), chat(2), chat(2), chat(2)])
    words = [text for text in told if "gone.mp4" in text]
    assert len(words) == 3 and "no such file" in words[0]
    assert any("4 of 5 requests could not be answered" in text for text in told)


@pytest.fixture
def told():
    """What is logged."""
    from loguru import logger

    lines = []
    number = logger.add(lambda message: lines.append(str(message)), level="INFO")
    yield lines
    logger.remove(number)


def test_a_failure_ends_a_strict_run(make):
    with pytest.raises(MediaError, match=r"gone\.mp4"):
        make(strict=True).generate_until([chat(1), chat(2)])
    with pytest.raises(MediaError, match=r"gone\.mp4"):
        make(True, strict=True).loglikelihood([continued(2, "MOSS")])


def sound(document):
    return [{"role": "user", "content": [{"type": "audio", "url": "a.mp3"}, {"type": "text", "text": "What?"}]}]


UNASKABLE = [{"top_p": 5.0, "do_sample": True}, {"temperature": "warm"}, {"max_new_tokens": 0}, {"until": 5}]


def test_a_request_that_cannot_be_made_has_an_empty_answer_and_leaves_the_others(make, told):
    requests = [chat(1), chat(1, sound), *(chat(1, generation=given) for given in UNASKABLE), chat(1)]
    assert [one.text for one in make().generate_until(requests)] == ["MOSS", *5 * [""], "MOSS"]
    assert any("5 of 7 requests could not be answered" in text for text in told)
    (nothing, right) = make(True).loglikelihood([continued(1, ""), continued(1, "MOSS")])
    assert nothing.text == (math.inf, False) and right.text[1]


def test_a_request_that_cannot_be_made_ends_a_strict_run(make):
    with pytest.raises(PromptError, match="sound"):
        make(strict=True).generate_until([chat(1, sound)])


def test_copies_that_fill_up_a_rank_are_not_asked(make, told):
    outputs = make().generate_until([chat(1), chat(1, __padding_only__=True)])
    assert [one.text for one in outputs] == ["MOSS", ""]
    assert any("total_requests: 1," in text for text in told)


def test_times_of_a_part_of_a_clip_count_from_its_start_unless_told_otherwise(make):
    def part(document):
        (message,) = to_messages(document)
        message["content"][0] |= {"start_time": 1.0, "end_time": 4.0}
        return [message]

    video = {"video_path": CLIP, "segments": [[1.0, 4.0]]}
    for times in ("segment", "clip"):
        model = make(fps=2, **({"clip_times": "clip"} if times == "clip" else {}))
        (output,) = model.generate_until([chat(0, part)])
        content = [{"type": "video", "video": {**video, "times": times}}, {"type": "text", "text": WHEN["text"]}]
        expected = asked(model, [{"role": "user", "content": content}])
        assert output.text == expected.text == {"segment": "1.0 seconds", "clip": "2.0 seconds"}[times]


def test_an_answer_ends_where_the_task_says(make):
    model = make(fps=2)
    whole = model.generate_until([chat(0)])[0].text
    cut = chat(0, generation={**GREEDY, "until": [whole[3:6]]})
    assert model.generate_until([cut])[0].text == whole[:3]
    short = chat(0, generation={**GREEDY, "max_new_tokens": 1})
    assert model.generate_until([short])[0].token_counts.output_tokens == 1


def test_a_system_prompt_may_be_in_a_file(make, tmp_path):
    file = tmp_path / "system.txt"
    file.write_text("Answer, in one word.")
    model = make(system_prompt=str(file))
    expected = asked(model, to_messages(READ), system_prompt="Answer, in one word.")
    assert model.generate_until([chat(1)])[0].token_counts.input_tokens == expected.usage.prompt_tokens


def test_the_cache_hook_hears_of_every_answer(make):
    heard = []
    model = make()
    model.set_cache_hook(type("Hook", (), {"add_partial": lambda _, *given: heard.append(given)})())
    model.generate_until([chat(1), chat(1, __padding_only__=True), chat(2), chat(1)])
    assert heard == 2 * [("generate_until", (READ["text"], GREEDY), "MOSS")]


# --- rounds ------------------------------------------------------------------------------------------------------


def next_messages(document, round_idx=None, previous_output=None, previous_round_info=None):
    if round_idx is None:
        return to_messages(document)
    ended = round_idx == (2 if document is WHEN else 1)
    question = {**document, "text": f"{previous_round_info or 0} {previous_output[-1]}?"}
    return None if ended else to_messages(question), ended, previous_output, round_idx


def test_a_conversation_goes_on_until_the_task_ends_it(make):
    model = make(fps=2)
    rounds = model.generate_until_multi_round([chat(1, next_messages), chat(0, next_messages)])
    first, second = "2.0 seconds", asked(model, to_messages({**WHEN, "text": "0 2.0 seconds?"})).text
    assert rounds == [["MOSS"], [first, second]]


def test_a_conversation_of_texts_and_visuals_goes_on_too(make):
    def next_text(document, previous_output, round_idx, previous_round_info):
        ended = round_idx == 2
        return to_visual(document), f"{previous_round_info} {previous_output[-1]}?", ended, previous_output, round_idx

    arguments = (WHEN["text"], GREEDY, to_visual, next_text, 0, "task", "test")
    model = make(True, fps=2)
    (answers,) = model.generate_until_multi_round([instance(arguments, "generate_until_multi_round")])
    assert answers == ["2.0 seconds", asked(model, to_messages({**WHEN, "text": "None 2.0 seconds?"})).text]


def test_a_round_that_fails_has_an_empty_answer_and_the_conversation_goes_on(make):
    def messages(document, round_idx=None, **so_far):
        given = sound(document) if round_idx in (None, 2) else to_messages(document)
        return given if round_idx is None else (given, round_idx == 3, [], None)

    assert make().generate_until_multi_round([chat(1, messages)]) == [["", "MOSS", ""]]
    unasked = chat(1, next_messages, {"max_new_tokens": 0})
    assert make().generate_until_multi_round([unasked, chat(1, next_messages)]) == [[""], ["MOSS"]]


def test_no_documents_are_kept_between_rounds(make):
    """At most those of the queries that the engine has been given."""

    class Counted(dict):
        pass

    class Documents:
        def __getitem__(self, number):
            document = Counted(READ)
            alive.add(document)
            return document

    Counted.__hash__ = object.__hash__
    Counted.__eq__ = object.__eq__
    alive, most = weakref.WeakSet(), []
    model = make(max_batch=1)
    model.task_dict["task"] = {"test": Documents()}

    def messages(document, round_idx=None, **so_far):
        gc.collect()
        most.append(len(alive))
        return to_messages(document) if round_idx is None else (to_messages(document), round_idx == 2, [], None)

    answers = model.generate_until_multi_round([chat(1, messages) for _ in range(5)])
    assert answers == 5 * [["MOSS", "MOSS"]]
    assert len(most) == 15 and max(most) <= 2


# --- likelihood --------------------------------------------------------------------------------------------------


def test_the_loss_of_an_answer_is_that_of_the_engines_log_probabilities(make):
    model = make(True, fps=2)
    (output,) = model.loglikelihood([continued(0, "2.0 seconds")])
    loss, greedy = output.text
    query = {"messages": to_messages(WHEN), "media_kwargs": model.arguments.media}
    drawn = model.llm.generate(query, SamplingParams(max_new_tokens=24, logprobs=0))
    of_text = [one.logprob for one in drawn.logprobs][: len(model.llm.processor.tokenizer("2.0 seconds").input_ids)]
    assert greedy and loss == pytest.approx(-sum(of_text) / len(of_text), abs=1e-4)


def test_the_right_answer_has_the_least_loss_and_is_greedy(make):
    model = make(True, fps=2)
    answers = ["1.0 seconds", " 2.0 seconds", "right", "MOSS"]
    outputs = model.loglikelihood([continued(0, answer) for answer in answers])
    losses, greedy = zip(*(unwrap_generation_output(one)[0] for one in outputs), strict=True)
    assert min(losses) == losses[1] and greedy == (False, True, False, False)
    (expected,) = model.loglikelihood([continued(0, lambda document: document["answer"])])
    assert expected.text == (losses[1], True)


def test_an_answer_that_cannot_be_scored_has_an_infinite_loss(make):
    (output,) = make(True).loglikelihood([continued(2, "MOSS")])
    assert output.text == (math.inf, False)


def test_an_answer_may_be_scored_without_a_question(make):
    (output,) = make(True).loglikelihood([instance(("", "MOSS"), "loglikelihood")])
    assert output.text[0] > 0


def test_scores_are_not_cached_as_texts(make, tmp_path):
    model = make(True, fps=2)
    for _ in range(2):
        cache = ResponseCache.create(str(tmp_path), model="moss_vl")
        (output,) = cache.execute(model, "loglikelihood", [continued(0, "2.0 seconds")])
        loss, greedy = unwrap_generation_output(output)[0]
        assert greedy and 0 <= loss < 0.1
        cache.close()


def test_a_cleaned_model_has_ended_its_engine(make):
    model = make()
    model.generate_until([chat(1)])
    engine = model.llm.engine
    model.clean()
    assert not hasattr(model, "llm") and engine._thread is None


def test_documents_are_read_as_the_engine_needs_them(make):
    """Not all of them before the first is asked."""
    model, read = make(max_batch=1), []

    def reading(document, number):
        read.append(number)
        return to_messages(document)

    seen = []
    generate = model.llm.submit
    model.llm.submit = lambda *given: (seen.append(len(read)), generate(*given))[1]
    model.generate_until([chat(1, partial(reading, number=number)) for number in range(6)])
    assert read == list(range(6)) and seen == list(range(1, 7))
