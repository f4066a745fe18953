"""Steps whose frames and rows are launched apart, and whose tokens are read while the next part runs, as on a GPU."""

import pytest
from golden_cases import CASES
from PIL import Image

from mossvl.device.runner import Runner
from mossvl.scheduling import scheduler

from .queries import GOOD, settled

QUERIES = [{**case["query"], "generate_kwargs": {"max_new_tokens": case["max_new_tokens"]}} for case in CASES.values()]
TEXTS = [case["text"] for case in CASES.values()]


@pytest.fixture(params=[False, True], ids=["in order", "overlapping"])
def launched(request, monkeypatch):
    """What is launched: numbers of frames, of rows of prompts and of rows that decode."""
    seen = []
    launch = Runner.launch

    def spied(self, step):
        seen.append((len(step.frames), len(step.prefill), len(step.decode)))
        return launch(self, step)

    monkeypatch.setattr(scheduler, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(Runner, "overlaps", request.param)
    monkeypatch.setattr(Runner, "launch", spied)
    return seen


@pytest.mark.parametrize("options", [{}, {"max_batch": 3}, {"prefill_tokens": 7, "vision_patches": 8}])
def test_answers_are_the_same(options, launched, make):
    llm = make(**options)
    for _ in range(2):
        results = llm.generate(QUERIES, progress=False)
        assert [result.text for result in results] == TEXTS
    assert any(rows and decode for _, rows, decode in launched)
    assert not any(frames and decode for frames, _, decode in launched)
    assert settled(llm)


def test_frames_that_fail_end_their_query_alone(launched, make, monkeypatch):
    llm = make(vision_cache=0)
    encode, bad = llm.engine.runner.encoder.encode, Image.new("RGB", (64, 32), "red")

    def failing(frames, *rest):
        if any(request.max_answer == 3 for request, _ in frames):
            raise ValueError("this frame is bad")
        return encode(frames, *rest)

    monkeypatch.setattr(llm.engine.runner.encoder, "encode", failing)
    failing_query = {"prompt": "yes", "images": [bad], "generate_kwargs": {"max_new_tokens": 3}}
    results = llm.generate([GOOD, failing_query, GOOD], progress=False)
    assert [result.error is None for result in results] == [True, False, True]
    assert "this frame is bad" in str(results[1].error)
    assert results[0].text == results[2].text == make().generate([GOOD], progress=False)[0].text
    assert settled(llm)
