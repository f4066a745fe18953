"""Work that runs ahead of whoever needs its results."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

POLL_SECONDS = 0.05


class Ahead:
    """An iterator in a daemon thread of its own, at most `items` ahead.

    Nobody ever waits for the thread: a source that hangs holds up nothing but itself.

    Attributes:
        exhausted: everything was taken.
    """

    def __init__(self, work: Callable[[threading.Event], Iterator[Any]], items: int = 1) -> None:
        self.exhausted = False
        self._stop = threading.Event()
        self._results: queue.Queue[tuple[str, Any]] = queue.Queue(items)
        threading.Thread(target=self._run, args=(work,), name="mossvl-media", daemon=True).start()

    def take(self, seconds: float = 0) -> Any | None:
        """The next item, or None if there is none within `seconds`. Raises what the iterator raised."""
        if self.exhausted:
            return None
        try:
            kind, value = self._results.get(block=seconds > 0, timeout=seconds or None)
        except queue.Empty:
            return None
        if kind == "item":
            return value
        self.exhausted = True
        if kind == "error":
            raise value
        return None

    def close(self) -> None:
        """Let the thread end; `work` is told by the event that it was given."""
        self._stop.set()

    def _run(self, work: Callable[[threading.Event], Iterator[Any]]) -> None:
        try:
            for item in work(self._stop):
                self._put("item", item)
                if self._stop.is_set():
                    return
            self._put("end", None)
        except BaseException as error:
            self._put("error", error)

    def _put(self, kind: str, value: Any) -> None:
        while not self._stop.is_set():
            try:
                self._results.put((kind, value), timeout=POLL_SECONDS)
                return
            except queue.Full:
                continue
