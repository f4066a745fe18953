"""A timer that runs out when nothing happens for a while."""

import asyncio
from collections.abc import Callable


class Silence:
    """Calls back after each span of `seconds` in which `begin` was not called; for asyncio.

    A timer is set anew only when it runs out: `begin` is called for each token.
    """

    def __init__(self, seconds: float, call: Callable[[], object]) -> None:
        self._loop, self._seconds, self._call = asyncio.get_running_loop(), seconds, call
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def begin(self) -> None:
        """Begin a span."""
        self._due = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._run_out)

    def end(self) -> None:
        """Call back no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _run_out(self) -> None:
        if self._loop.time() >= self._due:
            self._due += self._seconds
            self._call()
        self._timer = self._loop.call_at(self._due, self._run_out)
