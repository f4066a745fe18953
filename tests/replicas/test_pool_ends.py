"""How a `MossVL` with replicas begins and ends: with one error, and nothing left behind."""

import os
import threading

import pytest
from replicas.pools import EIGHT, kill, one_for_each, pids, start
from replicas.stand_ins import PATIENCE, alive, waited

from mossvl import MossVL
from mossvl.errors import CheckpointError, EngineError, GenerationCancelled


def threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("mossvl-replica")}


def test_closing_cancels_what_runs_and_leaves_nothing_behind(golden):
    memory, running = set(os.listdir("/dev/shm")), threads()
    llm = start(golden)
    handles, processes = one_for_each(llm), pids(llm)
    llm.close()
    assert all(isinstance(handle.wait(1).error, GenerationCancelled) for handle in handles.values())
    assert handles[0].result_now.text
    assert not any(map(alive, processes)) and set(os.listdir("/dev/shm")) <= memory and threads() <= running
    with pytest.raises(EngineError, match="have been closed"):
        llm.submit("yes")
    llm.close()


def test_a_pool_that_nobody_holds_ends_its_processes(golden):
    llm = start(golden)
    processes = pids(llm)
    del llm
    waited(lambda: not any(map(alive, processes)))


def test_replicas_that_cannot_load_are_one_error_at_the_start(golden, tmp_path):
    for file in (golden / "checkpoint").iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    running = threads()
    with pytest.raises(CheckpointError, match="safetensors"):
        MossVL(tmp_path, device="cpu", data_parallel_size=2)
    assert threads() <= running


def test_what_all_replicas_fail_at_again_and_again_ends_queries_with_one_error(golden, monkeypatch):
    """Processes that are started later find no Python."""
    with start(golden) as llm:
        monkeypatch.setattr("multiprocessing.spawn._python_exe", b"/nowhere/python")
        kill(llm, 0)
        kill(llm, 1)
        waited(lambda: not llm._answering._router.serving)
        with pytest.raises(EngineError, match="given up"):
            llm.submit("yes", EIGHT).result(PATIENCE)
        with pytest.raises(EngineError, match="given up"):
            llm.submit("yes", EIGHT)
