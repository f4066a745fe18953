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
