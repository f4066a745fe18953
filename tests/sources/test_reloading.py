"""Pixels that must be loaded again, or that several answers want, whatever little room there is for them."""

import numpy as np
import pytest
from golden_cases import MEDIA
from PIL import Image

from mossvl import SamplingParams
from mossvl.errors import MediaError

CLIP = str(MEDIA / "clip_40s.mp4")
QUERY = {"prompt": "what happens?", "system_prompt": "Tell me " * 40, "videos": [CLIP]}


def preempting(llm, monkeypatch, when, then=lambda: None):
    """Once, preempt a request that `when` says it of, and do something."""
    scheduler, done = llm.engine.scheduler, []
    plan = scheduler.plan

    def instead():
        for request in list(scheduler.running):
            if not done and when(request):
                done.append(request)
                scheduler._preempt(request)
                then()
        return plan()

    monkeypatch.setattr(scheduler, "plan", instead)
    return done


@pytest.mark.parametrize(
    "options",
    [{}, {"max_batch": 1}, {"prefix_cache": False}, {"vision_cache": 0}, {"prefix_cache": False, "vision_cache": 0}],
    ids=str,
)
def test_several_answers_about_a_video_that_does_not_fit_into_memory(options, make):
    llm = make(media_bytes=200_000, **options)
    params = SamplingParams(max_new_tokens=3, n=2, temperature=1.0, seed=5)
    result = llm.submit(QUERY, params).result(60)
    expected = [llm.submit(QUERY, SamplingParams(3, 1.0, seed=seed)).result(60).token_ids for seed in (5, 6)]
    assert [answer.token_ids for answer in result.answers] == expected
    assert llm.engine.media_budget.used == 0


@pytest.mark.parametrize("vision_cache", [0, 1 << 30])
def test_a_request_that_is_preempted_while_its_video_is_loaded(vision_cache, make, monkeypatch):
    llm = make(media_bytes=1, vision_cache=vision_cache)
    expected = llm.submit(QUERY, SamplingParams(max_new_tokens=3)).result(60).token_ids
    llm.engine.clear_caches()
    done = preempting(llm, monkeypatch, lambda request: request.encoded >= 2 and not request.decoding)
    assert llm.submit(QUERY, SamplingParams(max_new_tokens=3)).result(60).token_ids == expected
    assert done and llm.engine.media_budget.used == 0


def test_a_file_that_changes_before_it_is_loaded_again_is_an_error_and_leaves_nothing_in_the_cache(
    make, monkeypatch, tmp_path
):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8))
    noise.save(tmp_path / "changing.png")
    noise.save(tmp_path / "copy.png")
    red = Image.new("RGB", (128, 128), "red")
    params = SamplingParams(max_new_tokens=1, logprobs=0)

    def query(name):
        return {"prompt": "tell me " * 60, "images": [str(tmp_path / name)]}

    expected = make().generate(query("copy.png"), params).logprobs[0].logprob
    llm = make(vision_cache=0, prefill_tokens=32)

    def change():
        llm.engine.cache.clear()
        red.save(tmp_path / "changing.png")

    preempting(llm, monkeypatch, lambda request: request.encoded >= 1, change)
    with pytest.raises(MediaError, match="changed while it was being used"):
        llm.submit(query("changing.png"), params).result(60)
    assert llm.generate(query("copy.png"), params).logprobs[0].logprob == pytest.approx(expected, abs=1e-5)
