"""Whether replicas are well: the front asks each of them again and again."""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from mossvl.replicas.replica import Replica, State
from mossvl.server.front.asking import ask

PAUSE_SECONDS, SOON_SECONDS = 1.0, 0.2
"""Time between two questions to a replica; and that, if it has refused a request."""
ANSWER_SECONDS = 3.0
"""Time in which a replica answers; if it has not, it gets no requests until it answers again."""
UNANSWERED = 10
"""Questions in a row without an answer after which a replica is killed."""
LATE = 1.5
"""A question that took so many times its seconds tells nothing: the front itself was stopped, or had much to do."""


class Told(Protocol):
    """What is told of replicas."""

    def silent(self, number: int) -> None:
        """A replica has not answered in time, but may answer later."""

    def well(self, number: int) -> None:
        """A replica has answered."""

    def broken(self, number: int, why: str) -> None:
        """A replica is to be killed; `why` is a predicate."""


class Checks:
    """Asks replicas that are ready whether they are well, each in a task of its own, so that none waits for another.

    The server in a replica answers while its engine computes: a step may take long, an answer to `/health` may not.
    """

    def __init__(self, replicas: Sequence[Replica], told: Told) -> None:
        self._replicas, self._told = replicas, told
        self._doubted = [asyncio.Event() for _ in replicas]

    def doubt(self, number: int) -> None:
        """Ask a replica soon: it has refused a request with 503, as one does whose device has failed."""
        self._doubted[number].set()

    async def run(self) -> None:
        """Ask until the task is cancelled."""
        async with asyncio.TaskGroup() as group:
            for replica in self._replicas:
                group.create_task(self._check(replica))

    async def _check(self, replica: Replica) -> None:
        number, process, unanswered = replica.number, 0, 0
        while True:
            await self._pause(number)
            if replica.state is not State.READY:
                continue
            if replica.starts != process:
                process, unanswered = replica.starts, 0
            asked = time.monotonic()
            status, body = await answer(replica, "/health", [(b"host", b"localhost")], ANSWER_SECONDS)
            if replica.starts != process or replica.state is not State.READY:
                continue
            if status == 200:
                unanswered = 0
                self._told.well(number)
            elif status == 503:
                self._told.broken(number, f"has failed: {_message(body)}")
            elif time.monotonic() - asked < LATE * ANSWER_SECONDS:
                unanswered += 1
                if unanswered < UNANSWERED:
                    self._told.silent(number)
                else:
                    self._told.broken(number, "does not answer")

    async def _pause(self, number: int) -> None:
        await asyncio.sleep(SOON_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(PAUSE_SECONDS):
                await self._doubted[number].wait()
        self._doubted[number].clear()


async def answer(replica: Replica, path: str, headers: list[tuple[bytes, bytes]], seconds: float) -> tuple[int, bytes]:
    """GET from a replica; (0, b"") if it does not answer within so many seconds."""
    about = replica.info
    if about is not None:  # It has not just died.
        with suppress(OSError, EOFError):  # TimeoutError is an OSError.
            async with asyncio.timeout(seconds):
                return await ask(about.socket, path, headers)
    return 0, b""


def _message(body: bytes) -> str:
    """Return the message of a refusal's body."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "it does not say why"
