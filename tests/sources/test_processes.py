"""Media that are loaded in processes give what they give in threads, and cost their own request at most."""

import copy
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from descendants import left
from errands import dying, failing, niceness, sending, sleeping, squared, writing
from leftovers import LEFT, leave_free_at_ends, needs_glibc, resident

import mossvl
from mossvl.errors import GenerationCancelled, GenerationTimeout, MediaError, ResourceError
from mossvl.processing import crew
from mossvl.queries.query import Query
from mossvl.sources.memory import Budget
from mossvl.sources.processes import LoadingProcesses

EXAMPLES = Path(__file__).parents[2] / "examples"
QUESTION = {"prompt": "When does the blue star appear?", "videos": [str(EXAMPLES / "clip.mp4")]}


@pytest.fixture(scope="module")
def llm():
    with mossvl.MossVL(device="cpu") as llm:
        yield llm


@pytest.fixture
def processes(llm):
    made = LoadingProcesses(llm.processor, 2, 1 << 30, Budget(1 << 28))
    yield made
    made.close()


def ask(llm, processes, given):
    query = Query.from_dict(given)
    return llm.engine.begin(processes.load(query, query.messages([])), query.generation)


def test_answers_are_those_of_media_loaded_here(llm, processes):
    handles = [ask(llm, processes, QUESTION) for _ in range(5)]
    expected = llm.generate(QUESTION)
    for handle in handles:
        result = handle.result(60)
        assert result.text == expected.text == "2.0 seconds"
        assert result.media == expected.media and result.input_text == expected.input_text
    assert processes.budget.used == 0


def test_errors_are_those_of_media_loaded_here(llm, processes):
    with pytest.raises(MediaError, match=r"none\.png: no such file"):
        ask(llm, processes, {"prompt": "What?", "images": ["none.png"]}).result(60)
    assert ask(llm, processes, QUESTION).result(60).text == "2.0 seconds"


def test_a_process_that_dies_while_it_reads_costs_its_request_only(processes, tmp_path):
    told = tmp_path / "processes"
    with pytest.raises(MediaError, match="has died"):
        processes.call(dying, str(told), timeout=60).run()
    assert len(told.read_text().splitlines()) == 1, "what has killed a process must not be given to another"
    assert processes.call(squared, 3, timeout=60).run() == 9


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_process_that_has_died_leaves_no_descriptor_even_if_its_error_is_kept(processes, tmp_path):
    processes.call(squared, 3, timeout=60).run()
    open_before, errors = len(os.listdir("/proc/self/fd")), []
    for _ in range(3):
        with pytest.raises(MediaError) as error:
            processes.call(dying, str(tmp_path / "processes"), timeout=60).run()
        errors.append(error)
        processes.call(squared, 3, timeout=60).run()
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_processes_that_have_died_while_they_were_idle_cost_no_request(llm, processes):
    processes.warm_up(60)
    killed = [worker.process.pid for worker in processes._idle]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)  # They may take a moment to die: some are still there when they are asked.
    assert ask(llm, processes, QUESTION).result(60).text == "2.0 seconds"
    assert processes.call(squared, 4, timeout=60).run() == 16
    assert not {worker.process.pid for worker in processes._idle} & set(killed)


def test_a_process_that_dies_before_it_has_read_anything_costs_no_request(llm, processes):
    ask(llm, processes, QUESTION).result(60)
    (worker,) = processes._idle
    os.kill(worker.process.pid, signal.SIGSTOP)
    handle = ask(llm, processes, QUESTION)
    while processes._idle:
        time.sleep(0.01)
    os.kill(worker.process.pid, signal.SIGKILL)
    assert handle.result(60).text == "2.0 seconds"


def test_an_idle_process_that_hangs_is_waited_for_no_longer_than_a_medium(processes):
    processes.warm_up(60)
    for worker in processes._idle:
        os.kill(worker.process.pid, signal.SIGSTOP)
    with pytest.raises(GenerationTimeout, match=r"did not answer within 0\.2 seconds"):
        processes.call(squared, 4, timeout=0.2).run()


def test_processes_that_cannot_be_started_are_no_fault_of_the_media(processes, tmp_path):
    shutil.rmtree(processes._folder.path)
    for _ in range(3):
        with pytest.raises(ResourceError, match="cannot be started"):
            processes.call(squared, 4, timeout=60).run()
    os.mkdir(processes._folder.path)
    assert processes.call(squared, 4, timeout=60).run() == 16


def test_processes_that_load_share_the_threads_and_leave_the_engine_its_priority(processes, monkeypatch):
    monkeypatch.setattr(crew, "threads", lambda: 7)
    shares = []
    for _ in range(2):
        processes._free.acquire()
        shares.append(processes.threads)
    for _ in range(2):
        processes._free.release()
    assert shares == [7, 3]
    assert processes.call(niceness, timeout=60).run() > os.nice(0)


def test_memory_is_bounded(llm, tmp_path):
    from PIL import Image

    large = tmp_path / "large.png"
    Image.new("RGB", (12000, 12000)).save(large)
    small = LoadingProcesses(llm.processor, 1, 300 << 20, Budget(1 << 28))
    try:
        with pytest.raises(MediaError, match=r"memory|has died"):
            ask(llm, small, {"prompt": "What?", "images": [str(large)]}).result(60)
        assert ask(llm, small, QUESTION).result(60).text == "2.0 seconds"
    finally:
        small.close()


@needs_glibc
def test_an_idle_process_gives_back_what_its_media_have_left(processes):
    held = processes.call(leave_free_at_ends, timeout=60).run()
    (worker,) = processes._idle
    ends = time.monotonic() + 60
    while resident(worker.process.pid) > held - LEFT / 2:
        assert time.monotonic() < ends, "it keeps them"
        time.sleep(0.05)


def test_a_cancelled_query_ends_its_process(llm, processes):
    clip = str(EXAMPLES.parent / "tests/golden/media/clip_40s.mp4")
    slow = {"prompt": "What?", "videos": [clip], "media_kwargs": {"video_fps": 30, "max_frames": 2000}}
    handle = ask(llm, processes, slow)
    while not handle.media and not handle.ended:
        time.sleep(0.01)
    handle.cancel()
    with pytest.raises(GenerationCancelled):
        handle.result(60)
    assert ask(llm, processes, QUESTION).result(60).text == "2.0 seconds"
    assert processes.budget.used == 0


def test_a_decoding_that_cannot_be_interrupted_is_ended_with_its_process(llm, tmp_path):
    side = 3000
    slow = tmp_path / "slow.qoi"  # decoded in Python, pixel by pixel, by one call
    slow.write_bytes(b"qoif" + side.to_bytes(4, "big") * 2 + b"\3\0" + b"\1" * side * side + bytes(7) + b"\1")
    processor = copy.copy(llm.processor)
    processor.limits = replace(processor.limits, timeout=0.5)
    hurried = LoadingProcesses(processor, 1, 1 << 30, Budget(1 << 28))
    try:
        hurried.warm_up(60)
        (worker,) = hurried._idle
        number = worker.process.pid
        with pytest.raises(GenerationTimeout, match=r"0\.5 seconds"):
            ask(llm, hurried, {"prompt": "What?", "images": [str(slow)]}).result(60)
        while not hurried._free.value:  # The process is given back once it has ended.
            time.sleep(0.01)
        assert worker.killed and hurried._idle == []
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)
    finally:
        hurried.close()


def test_tensors_that_a_process_has_sent_can_be_read_after_its_end():
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe()
    process = context.Process(target=sending, args=(there,))
    process.start()
    process.join(60)
    assert here.poll(0) and torch.equal(here.recv(), torch.arange(3))


def test_functions_are_called_in_processes_and_fail_there(processes):
    assert processes.call(squared, 7, timeout=60).run() == 49
    with pytest.raises(MediaError, match="nothing to see"):
        processes.call(failing, timeout=60).run()
    assert len(processes._idle) == 1


def test_a_call_that_takes_too_long_or_is_stopped_gives_its_process_up(processes):
    with pytest.raises(GenerationTimeout, match=r"0\.2 seconds"):
        processes.call(sleeping, timeout=0.2).run()
    call = processes.call(sleeping, timeout=60)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(call.run)
        while call._errand._worker is None:
            time.sleep(0.01)
        call.stop()
        with pytest.raises(GenerationCancelled):
            running.result(60)
    assert processes._idle == []
    assert processes.call(squared, 2, timeout=60).run() == 4


def test_a_call_that_waits_for_a_process_is_stopped_before_it_has_one(processes):
    running, waiting = [processes.call(sleeping, timeout=60) for _ in range(2)], processes.call(squared, 2, timeout=60)
    with ThreadPoolExecutor() as pool:
        busy = [pool.submit(call.run) for call in running]
        while any(call._errand._worker is None for call in running):
            time.sleep(0.01)
        given_up = pool.submit(waiting.run)
        waiting.stop()
        with pytest.raises(GenerationCancelled):
            given_up.result(60)
        assert not any(one.done() for one in busy)
        for call in running:
            call.stop()


def test_a_load_that_has_ended_is_stopped_without_harm(llm, processes):
    """As the engine does with a prompt that is too long: what its process has given is of no use."""
    for _ in range(20):
        load = processes.load(Query.from_dict(QUESTION), [{"role": "user", "content": "Hello"}])
        ended = threading.Event()
        load.start(lambda event, load=load, ended=ended: (load.stop(), ended.set()))
        assert ended.wait(60)
        assert processes.call(squared, 3, timeout=60).run() == 9


def test_a_process_that_is_ended_leaves_no_file(processes):
    call = processes.call(writing, timeout=0.5)
    with pytest.raises(GenerationTimeout):
        call.run()
    assert not list(Path(processes._folder.path).iterdir())


def test_frames_that_are_needed_again_are_loaded_again(processes):
    with mossvl.MossVL(device="cpu", vision_cache=0, prefix_cache=False) as forgetful:
        for _ in range(2):
            assert ask(forgetful, processes, QUESTION).result(60).text == "2.0 seconds"
        several = QUESTION | {"generate_kwargs": {"n": 2}}
        assert [answer.text for answer in ask(forgetful, processes, several).result(60).answers] == ["2.0 seconds"] * 2


def test_more_pixels_than_may_wait_are_loaded_as_they_are_used_up(llm):
    tight = LoadingProcesses(llm.processor, 1, 1 << 30, Budget(40_000))
    try:
        assert ask(llm, tight, QUESTION | {"videos": [str(EXAMPLES / "clip.mp4")]}).result(60).text == "2.0 seconds"
        assert tight.budget.used == 0
    finally:
        tight.close()


def test_all_processes_are_there_after_warming_up(processes):
    processes.warm_up(60)
    assert len(processes._idle) == processes.count == 2
    assert processes.call(squared, 5, timeout=60).run() == 25


ENDING = """
import os, signal, mossvl
from mossvl.sources.memory import Budget
from mossvl.sources.processes import LoadingProcesses
if __name__ == "__main__":
    _, processor = mossvl.load(device="cpu")
    made = LoadingProcesses(processor, 2, 1 << 30, Budget(1 << 28))
    made.warm_up(60)
    pids = [worker.process.pid for worker in made._idle]
    print(*pids, flush=True)
    os.kill(pids[0], signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_when_the_process_that_has_them_is_killed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(ENDING)
    told, own = tmp_path / "told", os.environ | {"TMPDIR": str(tmp_path)}
    with told.open("w") as file:
        subprocess.run([sys.executable, program], stdout=file, env=own, timeout=300, check=False)
    pids = list(map(int, told.read_text().split()))
    assert len(pids) == 2 and not left(pids)
