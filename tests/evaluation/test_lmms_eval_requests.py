"""What lmms-eval asks becomes a query that asks the same."""

import pytest
from PIL import Image

from mossvl import SamplingParams
from mossvl.errors import OptionError, PromptError
from mossvl.evaluation.lmms_eval.requests import messages_of, params_of, question_of
from mossvl.processing.messages import check_messages, media_of

PICTURE = Image.new("RGB", (8, 8))


def parts(*given, times="segment"):
    (message,) = messages_of([{"role": "user", "content": list(given)}], times)
    return message["content"]


def test_parts_stay_where_the_task_puts_them():
    text, picture = {"type": "text", "text": "before"}, {"type": "image", "url": PICTURE}
    given = [{"role": "system", "content": [text]}, {"role": "user", "content": [text, picture, text]}]
    found = check_messages(messages_of(given, "segment"))
    assert [message["role"] for message in found] == ["system", "user"]
    assert [part["type"] for part in found[1]["content"]] == ["text", "image", "text"]
    assert media_of(found) == ([PICTURE], [])
    assert messages_of([{"role": "user", "content": "text"}], "clip") == [{"role": "user", "content": "text"}]


def test_a_whole_video_is_its_path():
    assert parts({"type": "video", "url": "a.mp4"}) == [{"type": "video", "video": "a.mp4"}]
    assert parts({"type": "video", "url": "a.mp4", "start_time": None, "end_time": None})[0]["video"] == "a.mp4"


@pytest.mark.parametrize(
    "given",
    [
        {"type": "video", "url": "a.mp4", "start_time": 3, "end_time": 4.5},
        {"type": "video", "url": {"type": "video", "path": "a.mp4", "video_start": 3, "video_end": 4.5}},
    ],
)
def test_a_part_of_a_video_keeps_its_bounds(given):
    for times in ("segment", "clip"):
        expected = {"video_path": "a.mp4", "segments": [[3, 4.5]], "times": times}
        assert parts(given, times=times) == [{"type": "video", "video": expected}]


def test_a_part_may_have_one_bound():
    (first, last) = parts(
        {"type": "video", "url": "a.mp4", "end_time": 4}, {"type": "video", "url": "a.mp4", "start_time": 0}
    )
    assert first["video"]["segments"] == [[0, 4]]
    assert last["video"]["segments"][0][0] == 0 and last["video"]["segments"][0][1] >= 1e9


def test_sound_is_refused_but_where_it_is_a_video():
    with pytest.raises(PromptError, match="sound"):
        parts({"type": "audio", "url": "a.wav"})
    with pytest.raises(PromptError, match="sound"):
        question_of(["a.mp3"], "?", "segment")
    with pytest.raises(PromptError, match="sound"):
        question_of([{"array": [0.0], "sampling_rate": 16000}], "?", "segment")
    assert parts({"type": "audio", "url": "a.webm"}) == [{"type": "video", "video": "a.webm"}]


@pytest.mark.parametrize(
    ("visuals", "kinds"),
    [
        (None, []),
        ([], []),
        (PICTURE, ["image"]),
        ([PICTURE, PICTURE], ["image", "image"]),
        ([[PICTURE], [PICTURE]], ["image", "image"]),
        (["a.mp4"], ["video"]),
        (["a.PNG", "b.webm"], ["image", "video"]),
        ([{"type": "video", "path": "a.mp4", "video_start": 1, "video_end": 2}], ["video"]),
        ([{"bytes": b"...", "path": None}], ["image"]),
    ],
)
def test_visuals_of_any_form_come_before_the_text(visuals, kinds):
    (message,) = check_messages(question_of(visuals, "what?", "segment"))
    assert [part["type"] for part in message["content"]] == [*kinds, "text"]
    assert message["content"][-1]["text"] == "what?"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"temperature": 0, "do_sample": True, "top_p": None},
        {"temperature": 0.7, "do_sample": False, "top_p": 0.9, "num_beams": 1},
        {"until": ["\n\n"], "top_p": 0},
    ],
)
def test_answers_are_greedy_unless_drawing_is_asked_for(given):
    params, idle = params_of(given, {})
    assert params == SamplingParams(temperature=0.0) and params.greedy and not idle


def test_drawing_is_asked_for_by_a_temperature_or_a_flag():
    params, _ = params_of({"temperature": 0.7, "top_p": 0.8, "top_k": 5, "seed": 3}, {"seed": 1})
    assert params == SamplingParams(temperature=0.7, top_p=0.8, top_k=5, seed=3)
    assert params_of({"do_sample": True}, {"seed": 1})[0] == SamplingParams(temperature=1.0, seed=1)


@pytest.mark.parametrize(
    ("until", "stop"),
    [
        (["\n\n"], ()),
        (None, ()),
        ([], ()),
        ([""], ()),
        ("\n\n", ("\n\n",)),
        (["\n\n", "Q:"], ("\n\n", "Q:")),
        (["ASSISTANT:"], ("ASSISTANT:",)),
    ],
)
def test_what_lmms_eval_fills_in_as_the_end_of_answers_is_no_end(until, stop):
    assert params_of({"until": until}, {})[0].stop == stop


def test_a_tasks_own_length_goes_before_the_models():
    assert params_of({}, {"max_new_tokens": 5})[0].max_new_tokens == 5
    assert params_of({"max_new_tokens": 16}, {"max_new_tokens": 5})[0].max_new_tokens == 16
    with pytest.raises(OptionError, match="max_new_tokens"):
        params_of({"max_new_tokens": 0}, {})


def test_keys_without_effect_are_named():
    _, idle = params_of({"num_beams": 5, "image_aspect_ratio": "pad", "best_of": 1, "temperature": 0}, {})
    assert idle == ["num_beams", "image_aspect_ratio"]


@pytest.mark.parametrize(
    "given",
    [{"temperature": "warm"}, {"temperature": [1]}, {"until": 5}, {"until": [5]}, {"max_new_tokens": 0}, {"seed": "x"}],
)
def test_values_of_another_type_or_range_are_refused(given):
    with pytest.raises(OptionError, match=next(iter(given)) if given.get("until") != [5] else "stop"):
        params_of(given, {})
