import asyncio
import threading

import pytest
from leftovers import LEFT, leave_free, needs_glibc, resident

from mossvl.server import background
from mossvl.server.config import ServerConfig
from mossvl.server.service import Service


@needs_glibc
def test_memory_that_requests_have_left_goes_back_once_in_ten_seconds_and_the_event_loop_goes_on(monkeypatch):
    waits, held, threads, trim = [], [], [], background.trim

    async def sleep(seconds):
        waits.append(seconds)
        held.append(resident())
        if len(waits) == 3:
            raise asyncio.CancelledError

    def trimming():
        threads.append(threading.current_thread())
        trim()

    monkeypatch.setattr(background.asyncio, "sleep", sleep)
    monkeypatch.setattr(background, "trim", trimming)
    service = Service(ServerConfig(), lambda: None, "none")
    leave_free()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(background.tidy_up(service))
    service.uploads.close()
    assert waits == [10.0, 10.0, 10.0] and len(threads) == 2
    assert held[0] - held[1] > LEFT / 2
    assert threading.current_thread() not in threads
