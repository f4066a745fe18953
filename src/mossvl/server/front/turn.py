"""What the front knows of one request, from its head to its end."""

from collections.abc import Callable

from mossvl.server.front.requests import Wish
from mossvl.server.middleware import Limit


class Turn:
    """A request at the front.

    Args:
        limit: of its body.
        ended: called once, at its end.

    Attributes:
        framed: the length of its body is known.
        taken: bytes of its body in memory.
        wish: where it is to go.
        replica: where it went; None until then.
        counted: the router counts it as its replica's.
    """

    def __init__(self, request_id: str, limit: Limit, answers: bool, socket: bool, ended: "Callable[[Turn], None]"):
        self.request_id, self.expect = request_id, limit.check
        self.answers, self.socket = answers, socket
        self._ended: Callable[[Turn], None] | None = ended
        self.framed, self.taken = True, 0
        self.wish = Wish()
        self.replica: int | None = None
        self.counted = False
        self.status = 0

    def answered(self, status: int) -> None:
        """An answer has begun."""
        self.status = status

    def end(self) -> None:
        """The request is over: what it has taken is given back, once."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(self)
