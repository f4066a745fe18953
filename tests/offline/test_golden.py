"""The offline methods give the reference implementation's transcripts."""

import copy
import queue
import threading

import pytest
from golden_cases import CASES, PROTOCOL


def run_loop(model, processor, messages):
    """Feed messages to `offline_generate`, then stop it → everything it put out."""
    queries, answers = queue.Queue(), queue.Queue()
    thread = threading.Thread(target=model.offline_generate, args=(processor, queries, answers), daemon=True)
    for message in messages:
        queries.put(message)
    expected_rounds = sum(isinstance(message, dict) for message in messages)
    thread.start()
    output = []
    while sum(text == "<|round_end|>" for text in output) < expected_rounds:
        output.append(answers.get(timeout=60))
    queries.put({"stop_offline_generate": True})
    thread.join(timeout=10)
    assert not thread.is_alive()
    return output


def joined(output):
    """Streamed pieces between marks become one."""
    result = []
    for text in output:
        if text.startswith("<|round_") or not result or result[-1].startswith(("<|round_end", "<|round_start")):
            result.append(text)
        else:
            result[-1] += text
    return result


@pytest.mark.parametrize("name", [name for name, value in PROTOCOL.items() if "output" in value])
def test_queue_protocol(name, model, processor):
    case = PROTOCOL[name]
    output = joined(run_loop(model, processor, case["messages"]))
    assert ["[ERROR]" if text.startswith("[ERROR]") else text for text in output] == case["output"]


def test_batch_with_sessions(model, processor):
    case = PROTOCOL["batch_with_sessions"]
    sessions = None
    for call in ("first", "second"):
        result = model.offline_batch_generate(processor, case[call], session_states=sessions)
        expected = case[f"{call}_result"]
        for mine, theirs in zip(result["results"], expected["results"], strict=True):
            assert mine == {**mine, **theirs}
            assert "error" not in mine
        sessions = result["session_states"]
        assert sessions == expected["session_states"]


@pytest.mark.parametrize("method", ["offline_image_generate", "offline_video_generate"])
def test_single_medium(method, model, processor):
    case = PROTOCOL[method]
    medium = {name: case[name] for name in ("image", "video") if name in case}
    assert getattr(model, method)(processor, prompt=case["prompt"], **medium, **case["kwargs"]) == case["text"]


def test_limits_that_are_not_given_are_those_of_the_processor(model, processor):
    case = PROTOCOL["offline_video_generate"]
    kwargs = case["kwargs"]
    small = copy.deepcopy(processor)
    for part in (small.image_processor, small.video_processor):
        part.size = {"shortest_edge": kwargs["shortest_edge"], "longest_edge": kwargs["longest_edge"]}
    for name in ("video_max_pixels", "video_fps", "min_frames", "max_frames"):
        setattr(small.video_processor, name, kwargs[name])

    def answer(processor, method="offline_video_generate", **given):
        given |= {"prompt": case["prompt"], "max_new_tokens": kwargs["max_new_tokens"]}
        return getattr(model, method)(processor, **given)

    assert answer(small, video=case["video"]) == case["text"] != answer(processor, video=case["video"])
    picture = {"method": "offline_image_generate", "image": PROTOCOL["offline_image_generate"]["image"]}
    limits = {name: kwargs[name] for name in ("shortest_edge", "longest_edge")}
    assert answer(small, **picture) == answer(processor, **picture, **limits) != answer(processor, **picture)


def test_all_cases_in_one_batch_answer_as_alone(model, processor):
    queries = [
        {**case["query"], "generate_kwargs": {"max_new_tokens": case["max_new_tokens"]}} for case in CASES.values()
    ]
    results = model.offline_batch_generate(processor, queries)["results"]
    assert [result["text"] for result in results] == [case["text"] for case in CASES.values()]
