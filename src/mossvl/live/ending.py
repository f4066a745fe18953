"""How a session ends: once, with a reason, and told to its readers."""

import logging
from collections.abc import Callable

from mossvl.live.events import Closed
from mossvl.live.inbox import Inbox
from mossvl.live.kept import Kept, Messages
from mossvl.live.outbox import Outbox
from mossvl.queries.handle import Handle

logger = logging.getLogger(__name__)


class Ending:
    """Ends a session, once, and tells how. It knows no session, so that one that nobody holds is ended.

    Args:
        most: tokens of the prefill of another session.
    """

    def __init__(self, wake: Callable[[], None], inbox: Inbox, outbox: Outbox, kept: Kept, most: int) -> None:
        self._wake, self._inbox, self._outbox, self._kept, self._most = wake, inbox, outbox, kept, most
        self._handle: Handle | None = None
        self._reason: str | None = None
        self._error: Exception | None = None

    @property
    def error(self) -> Exception | None:
        """Why the session has failed."""
        handle = self._handle
        if self._error is not None:
            return self._error
        return None if handle is None or handle.was_cancelled else handle.error

    def begun(self, handle: Handle) -> None:
        self._handle = handle
        handle.when_ended(self._ended)

    def close(self, reason: str, error: Exception | None = None) -> None:
        """End the session, for a reason of `Closed`, which is "error" for an error that is not the engine's."""
        if self._reason is None:
            self._reason, self._error = reason, error
        self._inbox.close()
        if self._handle is not None:
            self._handle.cancel()
        self._wake()

    def _ended(self) -> None:
        """Tell the end, in the engine's thread."""
        assert self._handle is not None
        self._inbox.close()
        reason = "error" if self.error is not None else self._reason or "closed"
        prefill: Messages = []
        try:
            prefill = self._kept.prefill(self._most)
        except Exception:
            logger.warning("a session's end could not be told in messages", exc_info=True)
        pictures = self._kept.pictures
        time = pictures[-1].time if pictures else None
        self._outbox.tell(Closed(time=time, reason=reason, prefill=prefill, error=self.error))
        self._outbox.announce()
