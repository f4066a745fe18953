"""Ctrl-C and SIGTERM as exceptions, so that context managers close what is open."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM has stopped the command."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` at SIGINT and SIGTERM; a signal that the shell has set to be ignored stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        # The signal may also end worker processes of a DataLoader: PyTorch would raise an error for each.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        raise Stopped(number)

    numbers = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
