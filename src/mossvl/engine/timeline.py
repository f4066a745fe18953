"""When what happened to a query."""

import time

from mossvl.device.stopwatch import Stopwatch
from mossvl.queries.results import Timings


def since(begun: float | None, ended: float | None) -> float | None:
    return None if begun is None or ended is None else max(0.0, ended - begun)


class Timeline:
    """When what happened to a query, in seconds of `time.monotonic`; by default, it is submitted now."""

    def __init__(self, submitted: float | None = None) -> None:
        self.submitted = time.monotonic() if submitted is None else submitted
        self.loaded: float | None = None
        self.admitted: float | None = None
        self.vision: list[Stopwatch] = []
        self.first_token: float | None = None
        self.last_token: float | None = None

    def encoding(self, watch: Stopwatch | None) -> None:
        """A step encodes some of its frames."""
        if watch is not None:
            self.vision.append(watch)

    def token(self, now: float) -> None:
        """A token has come."""
        self.first_token = now if self.first_token is None else self.first_token
        self.last_token = now

    def timings(self, tokens: int) -> Timings:
        """`tokens`: of the longest answer; several are generated side by side."""
        encoding = [seconds for watch in self.vision if (seconds := watch.seconds()) is not None]
        decoded = since(self.first_token, self.last_token)
        return Timings(
            media=since(self.submitted, self.loaded),
            queue=since(self.loaded, self.admitted),
            vision=sum(encoding) if encoding else None,
            first_token=since(self.submitted, self.first_token),
            per_token=None if decoded is None or tokens < 2 else decoded / (tokens - 1),
            total=since(self.submitted, time.monotonic()),
        )
