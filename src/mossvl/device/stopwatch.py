"""Measures how long work on a device takes."""

import time

import torch


class Stopwatch:
    """Time of a device between construction and `stop`; only `seconds` waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        self._begun = self._ended = time.monotonic()
        for event in self._events[:1]:
            event.record()

    def stop(self) -> None:
        self._ended = time.monotonic()
        for event in self._events[1:]:
            event.record()

    def seconds(self) -> float | None:
        """The time in seconds; None if the device has failed."""
        if not self._events:
            return self._ended - self._begun
        begun, ended = self._events
        try:
            ended.synchronize()
            return float(begun.elapsed_time(ended)) / 1e3
        except RuntimeError:
            return None
