import asyncio
import gc
import random
import threading
import time
import weakref

import pytest

from mossvl.queries.waker import Waker


def test_whatever_threads_do_every_event_is_set():
    async def wait_for_all():
        waker, events = Waker.here(), [asyncio.Event() for _ in range(2000)]
        assert Waker.here() is waker

        def set_some(seed):
            chance = random.Random(seed)
            for event in events[seed::4]:
                waker.set(event)
                if chance.random() < 0.05:
                    time.sleep(1e-4)

        threads = [threading.Thread(target=set_some, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        async with asyncio.timeout(20):
            for event in events:
                await event.wait()
        for thread in threads:
            thread.join()

    asyncio.run(wait_for_all())


def test_a_loop_is_woken_once_for_all_that_happens_meanwhile(monkeypatch):
    async def busy():
        loop, waker, events = asyncio.get_running_loop(), Waker.here(), [asyncio.Event() for _ in range(50)]
        calls = []
        call_soon = loop.call_soon_threadsafe
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *given: calls.append(given) or call_soon(*given))
        for _ in range(2):
            thread = threading.Thread(target=lambda: [waker.set(event) for event in events])
            thread.start()
            thread.join()  # the loop does nothing meanwhile
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert all(event.is_set() for event in events)
        assert len(calls) == 2

    asyncio.run(busy())


def test_a_loop_that_has_ended_says_so_and_is_not_kept():
    async def here():
        return Waker.here(), asyncio.Event()

    loop = asyncio.new_event_loop()
    waker, event = loop.run_until_complete(here())
    loop.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="closed"):
            waker.set(event)
    known = weakref.ref(loop)
    del loop
    gc.collect()
    assert known() is None
    waker.set(event)


def test_after_many_events_a_pausing_waker_sets_what_comes_meanwhile_at_once(monkeypatch):
    """Each event is set; the loop is woken by few system calls, and by none while it pauses."""

    async def busy():
        loop, waker = asyncio.get_running_loop(), Waker.here(0.002)
        assert Waker.here(0.002) is waker is not Waker.here()
        calls = []
        call_soon = loop.call_soon_threadsafe
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *given: calls.append(given) or call_soon(*given))
        events = [asyncio.Event() for _ in range(20)]
        for event in events:
            waker.set(event)
        await asyncio.gather(*(event.wait() for event in events))
        begun = loop.time()
        for event in events:
            event.clear()
            waker.set(event)
            waker.set(event)
        await asyncio.sleep(0)
        assert not any(event.is_set() for event in events)
        await asyncio.gather(*(event.wait() for event in events))
        assert loop.time() - begun >= 0.02
        assert len(calls) == 1
        await asyncio.sleep(0.2)
        (late,) = events[:1]
        late.clear()
        waker.set(late)
        await asyncio.wait_for(late.wait(), 10)
        assert len(calls) == 2

    asyncio.run(busy())


def test_a_pause_has_a_longest_duration():
    async def busy():
        waker, events = Waker.here(1000.0), [asyncio.Event() for _ in range(3)]
        for event in events:
            waker.set(event)
        await events[0].wait()
        events[0].clear()
        waker.set(events[0])
        await asyncio.wait_for(events[0].wait(), 20)

    asyncio.run(busy())
