"""Whoever cancels a query, closes the engine or interrupts its process leaves nothing behind."""

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from golden_cases import CHECKPOINT

import mossvl
from mossvl.errors import EngineError, GenerationCancelled

from .queries import GOOD, LONG, settled


@pytest.mark.parametrize("query", [GOOD, LONG], ids=["image", "video"])
def test_cancelling_at_every_stage_leaves_nothing(query, make):
    for delay in (0, 0.001, 0.01, 0.03, 0.1, 0.3):
        llm = make(prefix_cache=False, vision_cache=0, media_cache=0, vision_patches=16, prefill_tokens=4)
        handle = llm.submit(query)
        time.sleep(delay)
        handle.cancel()
        result = handle.wait(30)
        assert result.finish_reason in ("cancelled", "stop", "length")
        if result.error is not None:
            with pytest.raises(GenerationCancelled):
                handle.result()
        assert settled(llm)


def test_closing_ends_everything_within_bounds(llm):
    handles = [llm.submit(LONG) for _ in range(5)]
    time.sleep(0.2)
    llm.close()
    assert all(isinstance(handle.wait(5).error, GenerationCancelled) for handle in handles)
    assert settled(llm)


def test_an_engine_that_is_being_closed_refuses_queries_until_it_has_ended(llm, monkeypatch):
    runner, in_step, go_on = type(llm.engine.runner), threading.Event(), threading.Event()
    launch = runner.launch

    def slow(self, plan):
        in_step.set()
        go_on.wait(60)
        return launch(self, plan)

    monkeypatch.setattr(runner, "launch", slow)
    before = llm.submit(LONG)
    in_step.wait(60)
    closing = [threading.Thread(target=llm.engine.close, args=(60.0,)) for _ in range(2)]
    for thread in closing:
        thread.start()
    while llm.engine.loop.closing < 2:
        time.sleep(0.001)
    for ask in (llm.submit, llm.stream, llm.generate):
        with pytest.raises(EngineError, match="is being closed and takes no query; ask again once"):
            ask(GOOD)
    assert llm.engine.active == 1
    go_on.set()
    for thread in closing:
        thread.join()
    assert isinstance(before.wait(0).error, GenerationCancelled)
    assert llm.engine._thread is None and not llm.engine.active
    assert llm.generate(GOOD).error is None


def test_closing_ends_although_others_keep_submitting(llm):
    refused, handles = threading.Event(), [llm.submit(LONG)]
    thread = llm.engine._thread

    def keep_submitting():
        while True:
            try:
                handles.append(llm.submit(LONG))
            except EngineError:
                return refused.set()

    submitting = [threading.Thread(target=keep_submitting) for _ in range(3)]
    for one in submitting:
        one.start()
    while not refused.is_set():  # What was taken in between two calls runs on; the next call ends it.
        llm.engine.close(60)
        assert not thread.is_alive()
    for one in submitting:
        while one.is_alive():
            llm.engine.close(60)
    assert all(isinstance(handle.wait(0).error, GenerationCancelled) for handle in handles)


def test_a_query_is_answered_though_the_closed_engines_thread_has_not_ended(llm):
    expected = llm.generate(GOOD).text
    in_listener, go_on = threading.Event(), threading.Event()
    before = llm.submit(LONG)
    before.when_ended(lambda: (in_listener.set(), go_on.wait(60)))
    next(iter(before.chunks()))
    llm.engine.close(0.01)
    assert in_listener.wait(60)
    after = [llm.submit(GOOD) for _ in range(2)]
    go_on.set()
    assert [one.result(60).text for one in after] == [expected] * 2
    assert settled(llm)


def test_a_listener_may_close_the_engine(llm):
    closed = threading.Event()
    handle = llm.submit(GOOD)
    handle.when_ended(lambda: (llm.close(), closed.set()))
    assert closed.wait(60)
    assert llm.generate(GOOD).text == handle.result().text


def test_an_engine_that_nobody_has_any_more_ends_its_thread(model, processor):
    llm = mossvl.MossVL(model, processor, memory=1 << 24)
    llm.generate(GOOD)
    thread = llm.engine._thread
    assert thread.is_alive()
    del llm
    deadline = time.monotonic() + 10
    while thread.is_alive() and time.monotonic() < deadline:
        gc.collect()
        thread.join(0.05)
    assert not thread.is_alive()


def open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_200_random_cancels_and_timeouts_leave_no_page_thread_or_file(make):
    llm = make(max_batch=8, media_workers=3, page_size=8, memory=1 << 21)
    expected = llm.generate(GOOD).text
    assert settled(llm)
    before, rng = open_files(), random.Random(5)
    handles = []
    for _ in range(200):
        query = dict(rng.choice([GOOD, LONG]))
        if rng.random() < 0.5:
            query["generate_kwargs"] = {**query["generate_kwargs"], "timeout": rng.uniform(0.001, 0.5)}
        handle = llm.submit(query)
        handles.append(handle)
        threading.Timer(rng.uniform(0, 0.5), handle.cancel).start()
        time.sleep(rng.uniform(0, 0.02))
    for handle in handles:
        result = handle.wait(60)
        assert result.error is not None or result.text == expected
    assert settled(llm)
    gc.collect()
    assert open_files() <= before
    assert llm.generate(GOOD).text == expected


@pytest.mark.parametrize("stage", ["loading", "generating"])
def test_ctrl_c_returns_the_prompt(stage, tmp_path):
    """Within seconds, and without a traceback of a thread that was ended."""
    script = tmp_path / "ask.py"
    hang = "mossvl.sources.files.Load._load = lambda *_: __import__('time').sleep(60)\n" if stage == "loading" else ""
    script.write_text(
        "import mossvl, mossvl.sources.files\n"
        f"llm = mossvl.MossVL({str(CHECKPOINT)!r}, memory=1 << 24)\n{hang}"
        "print('ready', flush=True)\n"
        f"for text in llm.stream({LONG!r}): print('token', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    if stage == "generating":
        assert process.stdout.readline() == "token\n"
    else:
        time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    assert "terminate called" not in errors
