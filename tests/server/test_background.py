import asyncio
import threading

import pytest
from leftovers import LEFT, leave_free, needs_glibc, resident

from mossvl.errors import ResourceError
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


def test_what_is_kept_is_tidied_up_again_once_a_full_disk_has_room(monkeypatch):
    rounds, tried = [], []

    async def sleep(seconds):
        rounds.append(seconds)
        if len(rounds) == 3:
            raise asyncio.CancelledError

    def failing():
        tried.append(len(rounds))
        raise ResourceError("the index of uploads cannot be changed (database or disk is full)")

    monkeypatch.setattr(background.asyncio, "sleep", sleep)
    service = Service(ServerConfig(), lambda: None, "none")
    monkeypatch.setattr(service.uploads, "forget_old", failing)
    monkeypatch.setattr(service.responses, "forget_old", lambda: tried.append("responses"))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(background.tidy_up(service))
    service.uploads.close()
    assert tried == [1, "responses", 2, "responses"]
