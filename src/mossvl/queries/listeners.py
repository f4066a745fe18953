"""Listeners to answers and live sessions, which are called in the engine's thread, as a rule."""

import logging
import threading
from collections.abc import Callable, Iterable

logger = logging.getLogger(__name__)


def call_all(listeners: Iterable[Callable[[], object]]) -> None:
    """Call listeners. What one raises is logged, and affects neither the others nor the engine; also `SystemExit` and
    `CancelledError`.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed while this is called in the main thread.
    """
    for listener in listeners:
        try:
            listener()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise
            logger.warning("a listener has failed", exc_info=True)
