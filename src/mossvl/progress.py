"""A progress bar on stderr, if stderr is a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(total: int | None, done: int, shown: bool = True) -> Iterator[Callable[[], None]]:
    """Show a progress bar, if `shown`.

    Args:
        total: number of items; None if unknown.
        done: items that were done before.

    Yields:
        a function to call after each item.
    """
    if not shown or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich import progress as rich
    from rich.console import Console

    columns = (
        *(rich.BarColumn(), rich.MofNCompleteColumn(), rich.TextColumn("{task.fields[rate]}")),
        *(rich.TimeRemainingColumn(), rich.TextColumn("left")),
    )
    with rich.Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("", total=total, completed=done, rate="")
        begun, new = time.monotonic(), 0

        def advance() -> None:
            nonlocal new
            new += 1
            bars.update(task, advance=1, rate=f"{60 * new / (time.monotonic() - begun):.1f} a minute")

        yield advance
