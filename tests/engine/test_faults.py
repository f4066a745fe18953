"""What goes wrong costs the query that it goes wrong with, and nothing is left behind."""

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden_cases import MEDIA
from PIL import Image

import mossvl
from mossvl import waits
from mossvl.device import tables
from mossvl.device.tower import Tower
from mossvl.errors import (
    ContextLengthError,
    EngineError,
    GenerationTimeout,
    MediaError,
    MossVLError,
    PromptError,
    ResourceError,
)
from mossvl.sources.files import Load
from mossvl.waits import Waits

from .queries import GOOD, LONG, SHAPES, settled

PATIENCE = 180
"""Seconds that anything may take that should not take long."""


@pytest.fixture
def loading(monkeypatch):
    """Put something in the way of loading: `loading(what)` calls `what(load)` in the loading thread first."""
    original = Load._load

    def put(what):
        def instead(self, *rest):
            what(self)
            return original(self, *rest)

        monkeypatch.setattr(Load, "_load", instead)

    return put


def only(prompt, action):
    """`action`, for queries with that prompt."""

    def act(load):
        if load.query.turn[0]["content"][-1]["text"] == prompt:
            action()

    return act


def raising(error):
    def act():
        raise error

    return act


@pytest.mark.parametrize("error", [MediaError("no such thing"), RuntimeError("a bug"), MemoryError(), SystemExit(3)])
def test_a_loader_that_raises_costs_its_query(error, llm, loading):
    loading(only("bad", raising(error)))
    bad, good = llm.generate([{**GOOD, "prompt": "bad"}, GOOD])
    assert bad.finish_reason == "error"
    assert isinstance(bad.error, Exception)
    assert good.error is None
    assert settled(llm)


@pytest.mark.parametrize(
    ("work", "query"),
    [("executor.Executor.compute", "Why?"), ("tower.Tower.encode", GOOD)],
    ids=["a step", "the tower"],
)
def test_queries_end_with_one_error_when_a_gpu_hangs(golden, monkeypatch, work, query):
    over = threading.Event()
    monkeypatch.setattr("mossvl.engine.engine.WATCHED", ("cpu",))
    monkeypatch.setattr("mossvl.waits.STEP", 0.5)
    llm = mossvl.MossVL(golden / "checkpoint", device="cpu", dtype="float32", max_batch=4)
    monkeypatch.setattr(f"mossvl.device.{work}", lambda *_, **__: over.wait(PATIENCE))
    try:
        for handle in [llm.submit(query), llm.submit("Count.")]:
            told = str(handle.wait(PATIENCE).error)
            assert handle.ended and "has not ended within 0 seconds: the GPU hangs" in told
        for refused in (lambda: llm.submit("Why?"), llm.engine.clear_caches):
            with pytest.raises(EngineError, match=r"the engine has failed .* the GPU hangs"):
                refused()
    finally:
        over.set()
    assert settled(llm), "when the step ends after all, the engine has nothing left to do"


def test_only_what_is_waited_for_too_long_hangs(monkeypatch):
    now = 1000.0
    monkeypatch.setattr("mossvl.waits.time", SimpleNamespace(monotonic=lambda: now))
    waiting = Waits()
    with waiting.one():
        now += waits.STEP
        waiting.look()
        assert not waiting.hangs, "it was late: this process was stopped"
        for _ in range(int(waits.STEP)):
            now += waits.LOOK
            assert not waiting.look() and not waiting.hangs
        now += waits.LOOK
        assert waiting.hangs
        waiting.go_on()
        assert not waiting.hangs
    now += 2 * waits.STEP
    assert not waiting.hangs


def test_a_loader_that_hangs_ends_with_the_querys_time(llm, loading):
    release = threading.Event()
    loading(only("bad", lambda: release.wait(30)))
    query = {**GOOD, "prompt": "bad", "generate_kwargs": {"timeout": 0.3}}
    bad, good = llm.generate([query, GOOD])
    assert isinstance(bad.error, GenerationTimeout)
    assert good.error is None
    release.set()
    assert settled(llm)


def test_a_loader_that_gives_nothing_is_given_up(llm, loading, monkeypatch):
    release = threading.Event()
    loading(only("bad", lambda: release.wait(30)))
    monkeypatch.setattr(llm.processor, "limits", mossvl.media.limits.MediaLimits(timeout=0.2))
    assert "loading gave nothing for 0.2 seconds" in str(llm.generate({**GOOD, "prompt": "bad"}).error)
    release.set()


def test_loaders_that_hang_do_not_keep_others_from_loading_for_ever(make, loading):
    llm = make(media_workers=2)
    release = threading.Event()
    loading(only("bad", lambda: release.wait(30)))
    hanging = [llm.submit({**GOOD, "prompt": "bad", "generate_kwargs": {"timeout": 0.5}}) for _ in range(4)]
    assert llm.submit(GOOD).result(30).text
    assert all(isinstance(one.wait(30).error, GenerationTimeout) for one in hanging)
    release.set()


def test_memory_that_runs_out_while_frames_are_encoded_halves_their_number(llm, monkeypatch):
    encode = Tower._encode_at_once
    sizes = []

    def short_of_memory(self, pixels, frames, scale):
        sizes.append(len(frames))
        if len(frames) > 2:
            raise torch.OutOfMemoryError("injected")
        return encode(self, pixels, frames, scale)

    query = {**GOOD, "images": [], "videos": [str(MEDIA / "clip_10fps_6s.mp4")]}
    expected = llm.generate(query).text
    llm.engine.clear_caches()
    monkeypatch.setattr(Tower, "_encode_at_once", short_of_memory)
    assert llm.generate(query).text == expected
    assert sizes[0] == 6 and sizes.count(6) == 1 and max(sizes[1:]) == 3
    assert llm.engine.runner.tower.halvings == 3


def test_a_request_alone_in_a_step_is_tried_again_once_memory_is_free(make, monkeypatch):
    llm = make(vision_cache=0, prefix_cache=False)
    expected, failures = llm.generate(GOOD).text, []
    draw = type(llm.engine.runner)._draw

    def short_once(self, *rest):
        if not failures:
            failures.append(0)
            raise torch.OutOfMemoryError("injected")
        return draw(self, *rest)

    monkeypatch.setattr(type(llm.engine.runner), "_draw", short_once)
    answer = llm.generate(GOOD)
    assert answer.error is None and answer.text == expected and failures


@pytest.mark.parametrize("late", [False, True], ids=["before the step", "after it"])
@pytest.mark.parametrize(
    "error", [RuntimeError("injected"), torch.OutOfMemoryError("injected")], ids=["error", "memory"]
)
@pytest.mark.parametrize("place", ["_draw", "_compute_vision"])
def test_a_request_that_makes_a_step_fail_costs_itself_only(place, error, late, make, monkeypatch):
    llm = make(max_batch=3, vision_cache=0, prefix_cache=False)
    long = {**GOOD, "generate_kwargs": {"max_new_tokens": 300, "ignore_eos": True}}
    drawn = {
        **long,
        "generate_kwargs": {**long["generate_kwargs"], "do_sample": True, "seed": 1, "frequency_penalty": 1.0},
    }
    expected = [llm.generate(query).token_ids for query in (long, drawn, GOOD)]
    step = getattr(type(llm.engine.runner), place)

    def failing(self, parts, *rest):
        requests = [getattr(part, "request", part) for part in parts]
        bad = any("bad" in request.owner.handle.input_text for request in requests)
        done = step(self, parts, *rest) if late or not bad else None
        if bad:
            raise error
        return done

    monkeypatch.setattr(type(llm.engine.runner), place, failing)
    running = [llm.submit(long), llm.submit(drawn)]
    for handle in running:
        next(iter(handle.chunks()))
    bad, waiting = llm.submit({**GOOD, "prompt": "bad"}), llm.submit(GOOD)
    reason = bad.wait(30).error
    assert "injected" in str(reason)
    assert isinstance(reason, ResourceError if isinstance(error, torch.OutOfMemoryError) else MossVLError)
    assert [one.result(60).token_ids for one in (*running, waiting)] == expected
    assert settled(llm)


def test_a_broken_device_ends_everything_at_once_and_says_so(llm, monkeypatch):
    def broken(self, plan):
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(type(llm.engine.runner), "launch", broken)
    monkeypatch.setattr(type(llm.engine.runner), "check_device", lambda self: raising(RuntimeError("lost"))())
    handles = [llm.submit(GOOD) for _ in range(3)]
    errors = [handle.wait(30).error for handle in handles]
    assert any(isinstance(error, EngineError) for error in errors)
    with pytest.raises(EngineError, match="failed"):
        llm.submit(GOOD)


def test_a_prompt_that_does_not_fit_is_refused_with_both_sizes(make):
    with pytest.raises(ContextLengthError, match="more than the engine's 4 pages"):
        make(memory=4 * 32 * 1024 + 1, page_size=32).submit(LONG).result(30)


def test_results_wait_no_longer_than_they_are_told(llm):
    handle = llm.submit(LONG)
    with pytest.raises(GenerationTimeout, match="it goes on"):
        handle.result(0.05)
    assert not handle.ended
    handle.cancel()
    handle.wait(30)


def test_a_second_engine_in_the_same_process(make):
    first, second = make(), make()
    handles = [engine.submit(GOOD) for engine in (first, second) for _ in range(3)]
    assert len({handle.result(60).text for handle in handles}) == 1


def test_a_file_that_changes_is_seen(llm, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(Path(SHAPES).read_bytes())
    query = {**GOOD, "images": [str(path)]}
    first = llm.generate(query)
    path.write_bytes((MEDIA / "small.png").read_bytes())
    second = llm.generate(query)
    assert second.media != first.media
    assert second.text == llm.generate({**query, "images": [str(MEDIA / "small.png")]}).text


def test_errors_are_kept_with_the_result(llm):
    result = llm.generate({"prompt": "x", "images": ["missing.png"]})
    assert isinstance(result.error, MossVLError)
    assert "missing.png" in str(result.error)


def test_a_tokenizer_of_another_model_costs_its_query_only(llm, monkeypatch):
    vocabulary = llm.model.config.text_config.vocab_size
    original = Load._planned

    def foreign(self, text, plans):
        planned = original(self, text, plans)
        if "bad" in text:
            planned.input_ids[-1] = vocabulary
        return planned

    monkeypatch.setattr(Load, "_planned", foreign)
    expected = llm.generate(GOOD).text
    bad, good = llm.submit({**GOOD, "prompt": "bad"}), llm.submit(GOOD)
    assert isinstance(bad.wait(30).error, PromptError)
    assert f"the token {vocabulary}" in str(bad.error)
    assert good.result(30).text == expected


def test_a_copy_of_page_tables_that_fails_leaves_no_wrong_pages(make, monkeypatch):
    llm = make(max_batch=2, prefix_cache=False)
    long, short = ({"prompt": f"{word} " * 40, "generate_kwargs": {"max_new_tokens": 60}} for word in ("yes", "no"))
    expected = [llm.generate(query).token_ids for query in (long, short)]
    llm.engine.runner.executor.tables.text.zero_()
    llm.engine.runner.table_log._known.clear()
    running = llm.submit(long)
    next(iter(running.chunks()))
    copy, failed = tables.to_device, []

    def failing_once(array, device):
        if not failed and array.shape[1] > 2:
            failed.append(True)
            raise torch.OutOfMemoryError("injected")
        return copy(array, device)

    monkeypatch.setattr(tables, "to_device", failing_once)
    beside = llm.submit(short)
    assert [one.result(60).token_ids for one in (running, beside)] == expected
    assert failed


def test_a_frame_that_a_failed_step_has_evicted_is_loaded_again(make, monkeypatch, tmp_path):
    for name in "AB":
        noise = np.random.default_rng(ord(name)).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    asked = {name: {**GOOD, "images": [str(tmp_path / f"{name}.png")]} for name in "AB"}
    llm = make(prefix_cache=False)
    expected = [llm.generate(asked[name]).token_ids for name in "AB"]
    llm = make(prefix_cache=False, vision_cache=llm.engine.runner.vision_cache.bytes // 2)
    draw, failed = llm.engine.runner._draw, []

    def failing_once(requests, text):
        if not failed and len(requests) > 1 and text[0].num_prefill > 1:
            failed.append(True)
            raise RuntimeError("injected")
        return draw(requests, text)

    monkeypatch.setattr(llm.engine.runner, "_draw", failing_once)
    for _ in range(100):  # Until a step computes both, of which one needs the encoding that the other one evicts.
        llm.generate(asked["B"])
        both = [llm.submit(asked[name]) for name in "AB"]
        assert [one.result(60).token_ids for one in both] == expected
        if failed:
            return
    raise AssertionError("no step computed both")
