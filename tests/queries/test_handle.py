"""What users hold while an answer is generated, and who listens to it."""

import asyncio
import gc
import threading
import weakref

import pytest
import torch

from mossvl import SamplingParams
from mossvl.device.stopwatch import Stopwatch
from mossvl.engine.timeline import Timeline

LONG = SamplingParams(max_new_tokens=400, ignore_eos=True)
EIGHT = SamplingParams(max_new_tokens=8, ignore_eos=True)


async def leaves_a_stream(llm):
    async for _ in llm.stream("hi", LONG):
        return


async def gives_up_waiting(llm):
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(llm.agenerate(["hi"] * 3, LONG), 0.05)


async def leaves_tasks_behind(llm):
    for _ in range(3):
        asyncio.ensure_future(llm.agenerate(["hi"], LONG))  # noqa: RUF006
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("user", [leaves_a_stream, gives_up_waiting, leaves_tasks_behind])
def test_an_event_loop_that_ends_before_its_queries_costs_nobody_else(user, llm):
    asyncio.run(user(llm))
    assert len(llm.generate("hi", EIGHT).token_ids) == 8


@pytest.mark.parametrize("fault", [RuntimeError, SystemExit, asyncio.CancelledError])
def test_a_listener_that_raises_costs_nobody_anything(fault, llm):
    def listener():
        raise fault("a listener's own fault")

    handle = llm.submit("hi", EIGHT)
    handle.when_ended(listener)
    assert len(handle.result(30).token_ids) == 8
    assert len(llm.generate("hi", EIGHT).token_ids) == 8


def test_who_waits_for_the_result_takes_nothing_from_who_reads_the_pieces(llm):
    for _ in range(5):
        handle, pieces = llm.submit("hi", SamplingParams(max_new_tokens=40, ignore_eos=True)), []
        reader = threading.Thread(target=lambda to=pieces, of=handle: to.extend(of))
        reader.start()
        while not handle.ended:
            handle.result_now  # noqa: B018
        reader.join(30)
        assert "".join(pieces) == handle.wait().text


def test_text_that_was_held_back_belongs_to_an_answer_that_is_cancelled(llm):
    whole = llm.generate("yes", SamplingParams(max_new_tokens=8)).text
    handle = llm.submit("yes", SamplingParams(max_new_tokens=4000, ignore_eos=True, stop=[whole + "never"]))
    while len(handle.drafts[0].tokens) < 8:
        assert not handle.ended
    handle.cancel()
    result = handle.wait(30)
    assert result.text.startswith(whole)
    assert len(result.token_ids) >= 8


def test_timings_are_given_when_the_device_has_failed():
    class Failed:
        def synchronize(self):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    timeline, watch = Timeline(), Stopwatch(torch.device("cpu"))
    watch._events = [Failed(), Failed()]
    timeline.vision.append(watch)
    assert timeline.timings(0).vision is None


def test_memory_is_given_back_as_soon_as_an_engine_is_dropped(make, model, processor):
    import mossvl

    llm = mossvl.MossVL(model, processor, memory=1 << 22)
    llm.generate("hi", EIGHT)
    runner = weakref.ref(llm.engine.runner)
    gc.collect()
    gc.disable()
    try:
        llm.close()
        del llm
        assert runner() is None
    finally:
        gc.enable()
