"""Media that are loaded in processes give what they give in threads, and cost their own request at most."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from errands import failing, sleeping, squared

import mossvl
from mossvl.engine.media_memory import Budget
from mossvl.engine.query import Query
from mossvl.errors import GenerationCancelled, GenerationTimeout, MediaError
from mossvl.server.loading import LoadingProcesses

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


def test_a_process_that_dies_costs_its_request_only(llm, processes):
    ask(llm, processes, QUESTION).result(60)
    (worker,) = processes._idle
    os.kill(worker.process.pid, signal.SIGSTOP)
    handle = ask(llm, processes, QUESTION)
    while processes._idle:
        time.sleep(0.01)
    os.kill(worker.process.pid, signal.SIGKILL)
    with pytest.raises(MediaError, match="has died"):
        handle.result(60)
    assert ask(llm, processes, QUESTION).result(60).text == "2.0 seconds"


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


def test_functions_are_called_in_processes_and_fail_there(processes):
    assert processes.call(squared, 7, timeout=60).run() == 49
    with pytest.raises(MediaError, match="nothing to see"):
        processes.call(failing, timeout=60).run()
    assert len(processes._idle) == 1


def test_a_call_that_takes_too_long_or_is_stopped_gives_its_process_up(processes):
    with pytest.raises(GenerationTimeout, match=r"more than 0\.2 seconds"):
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
