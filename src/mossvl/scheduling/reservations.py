"""What live sessions reserve, so that one that has begun is never short of memory or of a place in the batch."""

import threading

from mossvl.errors import SessionLimitError
from mossvl.options.engine import EngineConfig

SHARE = 0.9
"""Of the pages, and of the places in the batch, that sessions may reserve together; the rest is for other requests."""


class Reservations:
    """Pages and places in the batch that live sessions have reserved; any thread may reserve.

    A session that has no more pages than it reserved is never preempted (see `Scheduler`): reserved pages are not set
    aside, but others make room.

    Args:
        num_pages: pages that there are.
    """

    def __init__(self, num_pages: int, config: EngineConfig) -> None:
        self.num_pages = max(1, int(SHARE * num_pages))
        self.most = config.max_sessions or max(1, int(SHARE * config.max_batch))
        self._lock = threading.Lock()
        self.sessions = self.pages = 0

    def reserve(self, pages: int) -> int:
        """Reserve pages for one session more; return how many, which are fewer where no session could have so many.

        Raises:
            SessionLimitError: there are too many sessions, or they have reserved too many pages.
        """
        with self._lock:
            if self.sessions >= self.most:
                raise SessionLimitError(
                    f"{self.sessions} live sessions are open, and no more may be; close one and try again",
                    setting="EngineConfig.max_sessions",
                    advice=", or raise {}",
                )
            pages = min(pages, self.num_pages)
            if self.pages + pages > self.num_pages:
                raise SessionLimitError(
                    f"memory for keys and values holds {self.num_pages // pages} live sessions like this one, of "
                    f"{pages} pages each: {self.sessions} are open, with {self.pages} of {self.num_pages} pages; close "
                    "one, or lower max_context or the window",
                    setting="EngineConfig.memory",
                    advice=", or raise {}",
                )
            self.sessions += 1
            self.pages += pages
            return pages

    def give_back(self, pages: int) -> None:
        """End a session's reservation."""
        with self._lock:
            self.sessions -= 1
            self.pages -= pages
