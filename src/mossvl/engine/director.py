"""Who decides what an open job does next, for jobs that ask it instead of waiting for `Engine.extend`."""

from dataclasses import dataclass
from typing import Protocol

from mossvl.scheduling.context import Context
from mossvl.scheduling.request import Spared
from mossvl.sources.source import Appended


@dataclass(frozen=True)
class Renewed(Appended):
    """A prompt in place of all that a request knows: the request begins anew with it."""


class Director(Protocol):
    """Directs an open job, in the engine's thread. What it raises ends its job, and no other.

    Attributes:
        spared: tokens that penalties spare.
    """

    spared: Spared

    def wait(self, drawing: bool = False) -> float:
        """Seconds after which `next` is to be asked: 0 for now, infinity for not before somebody wakes the engine.

        Args:
            drawing: the request draws on, and needs nobody for it.
        """
        ...

    def next(self, context: Context) -> Appended | None:
        """What comes next, once no token is being drawn: None to wait, without computing anything.

        Without tokens, an `Appended` lets the request draw `room` more tokens.
        """
        ...

    def drawn(self, token: int) -> bool:
        """Take in a token; return whether the request is to draw no more until `next` says so."""
        ...

    def lost(self) -> None:
        """All that was computed is lost, the tokens in flight, too: `next` must be a `Renewed`, or None."""
        ...

    def changed(self) -> None:
        """All that a step has brought is told."""
        ...

    def disown(self, error: Exception) -> None:
        """End its copy in a forked process, once the job's handle is ended there; see `Handle.disown`."""
        ...
