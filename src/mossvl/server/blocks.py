"""An answer as a sequence of blocks, text or a function call, each of which begins, grows and ends."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from mossvl.queries.results import TokenLogprobs
from mossvl.server.drafts import News
from mossvl.tools.calls import CallArguments, CallBegun, CallReader, Content, Piece
from mossvl.tools.definitions import Tools


@dataclass
class Block:
    """A part of an answer.

    Attributes:
        call: of the block's function; None if the block is text.
        text: the text, or the arguments of the call as JSON.
        logprobs: of a text's tokens.
    """

    index: int
    call: CallBegun | None = None
    text: str = ""
    logprobs: list[TokenLogprobs] = field(default_factory=list)


class Happened(Enum):
    BEGUN, GROWN, ENDED = range(3)


class Change(NamedTuple):
    """What happened to a block; if it has grown, by which text and log-probabilities."""

    what: Happened
    block: Block
    text: str = ""
    logprobs: Sequence[TokenLogprobs] = ()


class Blocks:
    """Reads one answer token by token, so that the blocks do not depend on when it is read.

    Attributes:
        blocks: those that have begun; at the end at least one, which may be an empty text.
        finish_reason: why the answer has ended, once it has.
    """

    def __init__(self, tools: Tools | None) -> None:
        self.blocks: list[Block] = []
        self.finish_reason: str | None = None
        self._reader = CallReader.of(tools)
        self._drawn: list[TokenLogprobs] = []
        """Log-probabilities that no text was told for."""

    @property
    def called(self) -> bool:
        """Whether the answer calls a function."""
        return self._reader.count > 0

    def add(self, news: News) -> list[Change]:
        """Return what happens to the blocks by what is new of the answer."""
        changes: list[Change] = []
        for text, drawn in news.pieces:
            self._drawn += [] if drawn is None else [drawn]
            changes += self._grown(self._reader.push(text))
        if news.reason:
            changes += self._grown(self._reader.finish())
            self.finish_reason = news.reason
            changes += [] if self.blocks else self._begin(None)
            last = self.blocks[-1]
            if last.call is None and self._drawn:
                changes.append(self._grow(last, ""))
            changes.append(Change(Happened.ENDED, last))
        return changes

    def _grown(self, pieces: Sequence[Piece]) -> list[Change]:
        changes: list[Change] = []
        for piece in pieces:
            match piece:
                case CallBegun():
                    changes += self._begin(piece)
                case Content(text):
                    if not self.blocks or self.blocks[-1].call is not None:
                        changes += self._begin(None)
                    changes.append(self._grow(self.blocks[-1], text))
                case CallArguments(_, text):
                    changes.append(self._grow(self.blocks[-1], text))
        return changes

    def _begin(self, call: CallBegun | None) -> list[Change]:
        before = [Change(Happened.ENDED, self.blocks[-1])] if self.blocks else []
        self.blocks.append(Block(len(self.blocks), call))
        return [*before, Change(Happened.BEGUN, self.blocks[-1])]

    def _grow(self, block: Block, text: str) -> Change:
        drawn, self._drawn = self._drawn, []
        block.text += text
        block.logprobs += [] if block.call else drawn
        return Change(Happened.GROWN, block, text, drawn)
