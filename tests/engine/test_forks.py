"""A forked process computes, or says at once that it cannot; it never waits for threads that it has not."""

import os
import subprocess
import sys

import pytest
from golden_cases import CHECKPOINT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

BEGINNING = """
import os, sys
import mossvl
from mossvl.errors import EngineError

CHECKPOINT, SHORT = sys.argv[1], mossvl.SamplingParams(max_new_tokens=2)

def new():
    return mossvl.MossVL(CHECKPOINT, memory=1 << 24)

def refused(*asks):
    for ask in asks:
        try:
            ask()
        except EngineError as error:
            assert "spawn" in str(error), error
        else:
            raise AssertionError("it was not refused")

def in_child(act):
    child = os.fork()
    if not child:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def run(script, threads=2):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", BEGINNING + script, str(CHECKPOINT)]
    subprocess.run(command, check=True, timeout=120, env=environment)


@pytest.mark.parametrize("before", ["new", "asked", "running"])
def test_an_engine_asked_in_a_forked_process_says_so_and_works_on_in_its_own(before):
    run(
        f"""
llm, before, running = new(), {before!r}, None
if before == "running":
    running = llm.submit({{"prompt": "yes", "generate_kwargs": {{"max_new_tokens": 100_000, "ignore_eos": True}}}})
    next(iter(running.chunks()))
elif before == "asked":
    llm.generate("yes", SHORT)

def ask():
    refused(lambda: llm.generate("yes"), lambda: llm.submit("yes"), *([running.result] if running else []))
    llm.close()

in_child(ask)
if running:
    assert not running.ended
    running.cancel()
assert llm.generate("yes", SHORT).error is None
"""
    )


def test_a_session_ends_in_a_forked_process_and_goes_on_in_its_own():
    run(
        """
from mossvl.errors import SessionClosed

llm = new()
session = llm.live("yes", max_new_tokens=4, max_context=512, window_frames=2, max_pixels=1 << 14)

def end():
    try:
        session.say("yes")
    except SessionClosed:
        pass
    else:
        raise AssertionError("it was not refused")
    *_, closed = session
    assert closed.reason == "error" and session.error is closed.error and "spawn" in str(closed.error)
    session.close()
    assert not session.active and list(session) == []

with session._pushing, session._inbox._changed, session._outbox._changed, session._outbox._reading:
    in_child(end)
assert session.active
session.say("yes", final=True)
assert list(session)[-1].reason == "final"
"""
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_beside_an_engine_that_is_at_work_a_forked_process_makes_none(threads):
    run(
        """
llm = new()
model, processor = llm.model, llm.processor
llm.generate("yes", SHORT)
in_child(lambda: refused(
    new,
    lambda: mossvl.MossVL(model, processor),
    lambda: mossvl.load(CHECKPOINT),
    lambda: mossvl.MossVLForConditionalGeneration.from_pretrained(CHECKPOINT),
    lambda: model.offline_batch_generate(processor, ["yes"]),
    lambda: in_child(lambda: refused(new)) or new(),
))
""",
        threads,
    )


COMPUTES = "import torch\ntorch.set_num_threads(2)\ntorch.zeros(1 << 20).add_(1)\n"


def test_after_a_computation_of_several_threads_a_forked_process_is_told_that_it_cannot_compute():
    run(COMPUTES + "in_child(lambda: refused(new))")


def test_a_process_that_is_forked_before_anything_is_computed_answers():
    run(
        """
def answer():
    with new() as llm:
        assert llm.generate("yes", SHORT).error is None

import torch, mossvl.llm
for _ in range(2):
    in_child(answer)
"""
    )


def test_a_forked_process_that_computes_with_one_thread_answers():
    run(COMPUTES + "in_child(lambda: torch.set_num_threads(1) or new().generate('yes', SHORT).text)")


def test_loaders_that_are_forked_beside_an_engine_prepare_batches():
    run(
        """
import torch
llm = new()
llm.generate("yes", SHORT)

def prepare(texts):
    picture = torch.zeros(320, 320, 3, dtype=torch.uint8)
    return llm.processor([f"<|image|>{text}" for text in texts], images=[picture] * len(texts))

loader = torch.utils.data.DataLoader(
    ["one", "two"] * 4, 2, num_workers=2, multiprocessing_context="fork", collate_fn=prepare
)
assert [tuple(batch["grid_thw"].shape) for batch in loader] == [(2, 3)] * 4
assert llm.generate("yes", SHORT).error is None
"""
    )


def test_a_process_that_forks_others_goes_on_with_cuda():
    run(
        """
import torch
from mossvl.forking import check_fork

torch.cuda.is_initialized = lambda: True
in_child(lambda: refused(lambda: check_fork("cuda")))
check_fork("cuda")
"""
    )
