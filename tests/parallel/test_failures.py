"""A rank that dies or hangs ends its group at once, with one clear error; nothing is left behind."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from descendants import PATIENCE, descendants, left
from golden_cases import CHECKPOINT, MEDIA
from parallel.stand_ins import dying, hanging, without_memory

import mossvl
from mossvl import SamplingParams
from mossvl.errors import EngineError, MossVLError, OptionError
from mossvl.loading import follow_checkpoint
from mossvl.parallel.ranks import LeadingRanks

LONG = SamplingParams(max_new_tokens=100_000, ignore_eos=True)
CPU = torch.device("cpu")
SECONDS = 10
"""In which a group has ended."""


def loaded():
    return mossvl.MossVL(CHECKPOINT, device="cpu", dtype="float32", memory=1 << 24, tensor_parallel_size=2)


@pytest.fixture
def llm():
    with loaded() as made:
        yield made
    made.model.ranks.close()


def other_rank(llm):
    (one,) = llm.model.ranks.processes._processes
    return one.process.pid


def is_over(llm, pid, queries):
    """Whether all queries have failed, no more is answered, and the other process is gone."""
    for handle in queries:
        assert "rank 1 of 2" in str(handle.wait(SECONDS).error)
    with pytest.raises(EngineError, match=f"answers nothing any more: rank 1 of 2 \\(process {pid}\\)"):
        llm.submit("Why?")
    with pytest.raises(EngineError, match="rank 1 of 2"):
        llm.warm_up() or mossvl.MossVL(llm.model, llm.processor, memory=1 << 24)
    return not left([pid])


@pytest.mark.parametrize(
    ("number", "told"), [(signal.SIGKILL, "was killed by SIGKILL"), (signal.SIGSTOP, "hangs: it gave no sign of life")]
)
def test_a_rank_that_dies_or_hangs_while_it_answers(llm, number, told):
    queries = [llm.submit(text, LONG) for text in ("Count.", "Why?")]
    answer = iter(queries[0])
    next(answer)
    pid = other_rank(llm)
    os.kill(pid, number)
    assert isinstance(queries[0].wait(SECONDS).error, EngineError)
    assert told in str(queries[0].wait().error)
    assert is_over(llm, pid, queries)


def test_a_rank_that_dies_while_nothing_is_asked():
    llm = loaded()
    assert llm.generate("Why?", SamplingParams(max_new_tokens=2)).error is None
    pid = other_rank(llm)
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + SECONDS
    while llm.engine.broken is None and time.monotonic() < until:
        time.sleep(0.05)
    assert "rank 1 of 2" in str(llm.engine.broken)
    assert is_over(llm, pid, [])
    engine = weakref.ref(llm.engine)
    del llm
    gc.collect()
    assert engine() is None


def test_a_model_that_is_dropped_takes_its_processes_along():
    before, threads = set(descendants()), set(threading.enumerate())
    model, processor = mossvl.load(CHECKPOINT, "cpu", "float32", tensor_parallel_size=2)
    llm = mossvl.MossVL(model, processor, memory=1 << 24)
    assert llm.generate("Why?", SamplingParams(max_new_tokens=2)).error is None
    new = set(descendants()) - before
    assert len(new) == 1
    llm.close()
    del llm, model, processor
    gc.collect()
    assert not left(new)
    for thread in set(threading.enumerate()) - threads:
        thread.join(SECONDS)
        assert not thread.is_alive(), thread.name


def test_the_error_of_a_rank_that_cannot_load_its_part_is_raised(tmp_path):
    before = set(descendants())
    ranks = LeadingRanks([CPU, CPU], follow_checkpoint, tmp_path, torch.float32, None, "")
    new = set(descendants()) - before
    with pytest.raises(MossVLError, match=str(tmp_path)):
        ranks.meet()
    ranks.close()
    assert len(new) == 1 and not left(new)


def ranks_of(make, *given):
    """Rank 0 with another one that is a stand-in, and the other's process."""
    ranks = LeadingRanks([CPU, CPU], make, *given)
    return ranks, ranks.processes._processes[0].process.pid


@pytest.mark.parametrize("stage", ["starting", "making", "ready", "at the store", "in the group"])
def test_a_rank_that_dies_while_it_joins_ends_the_others_at_once(stage):
    ranks, pid = ranks_of(dying, stage)
    if stage == "starting":
        os.kill(pid, signal.SIGKILL)
    with ThreadPoolExecutor(1) as pool:
        meeting = pool.submit(ranks.meet)
        ranks.processes._processes[0].process.wait(PATIENCE)
        with pytest.raises(EngineError, match=rf"^rank 1 of 2 \(process {pid}\) was killed by SIGKILL$"):
            meeting.result(SECONDS)
    ranks.close()
    assert not left([pid])


def test_a_rank_that_dies_while_rank_0_reads_its_weights_is_noticed(monkeypatch):
    before = set(descendants())

    def endless(model, folder, progress, share):
        for pid in new():
            os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            progress(0, 1)
            time.sleep(0.05)

    def new():
        return set(descendants()) - before

    monkeypatch.setattr("mossvl.loading.load_weights", endless)
    with pytest.raises(EngineError, match=r"rank 1 of 2 .* was killed by SIGKILL"):
        mossvl.load(CHECKPOINT, "cpu", "float32", tensor_parallel_size=2)
    assert not left(new())


def test_a_rank_whose_main_thread_alone_hangs_ends_the_group(monkeypatch):
    ranks, pid = ranks_of(hanging)
    ranks.meet()
    monkeypatch.setattr("mossvl.waits.STEP", 0.5)
    with (
        pytest.raises(EngineError, match=r"a step of 2 ranks has not ended within .* one of them hangs"),
        ranks.telling(1, "compute"),
    ):
        ranks.sum(torch.zeros(1))
    with pytest.raises(EngineError, match="one of them hangs"):
        ranks.check()
    ranks.close()
    assert not left([pid])


@pytest.mark.parametrize(
    ("work", "query"),
    [
        ("executor.Executor.compute", "Why?"),
        ("tower.Tower.encode", {"prompt": "What?", "images": [str(MEDIA / "shapes.png")]}),
    ],
    ids=["a step", "the tower, of which other ranks know nothing"],
)
def test_queries_end_also_when_the_work_of_rank_0_itself_hangs(llm, monkeypatch, work, query):
    over = threading.Event()
    monkeypatch.setattr(f"mossvl.device.{work}", lambda *_, **__: over.wait(PATIENCE))
    monkeypatch.setattr("mossvl.waits.STEP", 0.5)
    pid = other_rank(llm)
    form = SamplingParams(max_new_tokens=5, regex="[a-z]+")
    handles = [llm.submit(query), llm.submit("Count.", form)]
    for handle in handles:
        assert "has not ended within 0 seconds: one of them hangs" in str(handle.wait(SECONDS).error)
        assert handle.ended and handle.result_now.text == ""
    with pytest.raises(EngineError, match="one of them hangs"):
        llm.submit("Why?")
    assert not left([pid])
    over.set()


def test_memory_that_runs_out_is_told_as_such():
    ranks, pid = ranks_of(without_memory)
    ranks.meet()
    told = (
        r"rank 1 of 2 .* has failed: its memory did not suffice for a step, which ends all ranks \(CUDA out of memory"
    )
    with pytest.raises(EngineError, match=told), ranks.telling(1, "compute"):
        ranks.sum(torch.zeros(1))
    ranks.close()
    assert not left([pid])


def test_memory_that_runs_out_on_rank_0_is_told_as_such():
    ranks, pid = ranks_of(hanging)
    ranks.meet()
    with (
        pytest.raises(EngineError, match="rank 0 of 2 has failed: its memory did not suffice for a step"),
        ranks.telling(1, "compute"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    ranks.close()
    assert not left([pid])


KILLED = """
import os, signal, mossvl
llm = mossvl.MossVL({checkpoint!r}, device="cpu", dtype="float32", memory=1 << 24, tensor_parallel_size=2)
handle = llm.submit("Count.", mossvl.SamplingParams(max_new_tokens=100_000, ignore_eos=True))
answer = iter(handle)
next(answer)
rank = llm.model.ranks.processes._processes[0].process.pid
print(rank, flush=True)
{end}
"""
DIE = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    "end", [DIE, f"os.kill(rank, signal.SIGSTOP); {DIE}", ""], ids=["killed", "stopped and killed", "at exit"]
)
def test_other_ranks_end_with_rank_0(end):
    program = KILLED.format(checkpoint=str(CHECKPOINT), end=end)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.returncode == (-signal.SIGKILL if end else 0), ended.stderr
    assert not left([int(ended.stdout)])
    assert end or not ended.stderr


def test_settings_that_are_refused_end_no_group(halves):
    for _ in range(2):
        with pytest.raises(OptionError, match="leaves 5 bytes for keys and values"):
            mossvl.MossVL(*halves, memory=5)
    llm = mossvl.MossVL(*halves, memory=1 << 24)
    assert llm.generate("Why?", SamplingParams(max_new_tokens=2)).error is None
    llm.close()
