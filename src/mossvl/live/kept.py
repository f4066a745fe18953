"""What a session keeps of its stream: enough to begin a new context, or another session, and no more."""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from mossvl.live.segments import Asked, Picture, Segment, StreamTokens
from mossvl.processing.pixels import num_vision_tokens
from mossvl.processing.stream import SILENCE

SILENCES = re.compile(f"(?:{re.escape(SILENCE)})+")
Messages = list[dict[str, str]]


@dataclass
class Piece:
    """A segment of the stream, and the tokens that were drawn after it.

    Attributes:
        silences: for each prompt, whether a silence was put after it.
        sides: merged patches of the frames' longer sides.
        vision: vision tokens.
        gone: frames of it have left the window.
    """

    prompts: Sequence[Asked] = ()
    silences: Sequence[bool] = ()
    ids: Sequence[int] = ()
    pictures: Sequence[Picture] = ()
    drawn: list[int] = field(default_factory=list)
    sides: int = 0
    vision: int = 0
    gone: bool = False

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.ids) + len(self.drawn)

    @property
    def positions(self) -> int:
        """Number of rotary positions."""
        return self.length + self.sides


@dataclass(frozen=True)
class NewContext:
    """A new context: its tokens, its frames, and how many tokens of the old one it has."""

    ids: list[int]
    pictures: list[Picture]
    kept: int


class Kept:
    """The messages with which the present context began, and the pieces of the stream since then."""

    def __init__(self, tokens: StreamTokens, messages: Messages) -> None:
        self.tokens, self.messages = tokens, messages
        self.pieces: deque[Piece] = deque([Piece()])
        self._seen: deque[Piece] = deque()
        """The pieces whose frames are in the window."""

    def append(self, prompts: Sequence[Asked], segment: Segment, ids: Sequence[int]) -> None:
        """Add what was appended to the stream."""
        merge = self.tokens.merge
        sides = sum(max(picture.grid) // merge for picture in segment.pictures)
        vision = num_vision_tokens([(1, *picture.grid) for picture in segment.pictures], merge)
        piece = Piece(prompts, segment.silences, ids, segment.pictures, sides=sides, vision=vision)
        self.pieces.append(piece)
        if segment.pictures:
            self._seen.append(piece)

    def drawn(self, token: int) -> None:
        self.pieces[-1].drawn.append(token)

    @property
    def pictures(self) -> list[Picture]:
        """The frames that are in the window, in their order."""
        return [picture for piece in self._seen for picture in piece.pictures]

    def leave(self, count: int) -> None:
        """Let go of the pixels of the oldest frames."""
        while count:
            piece = self._seen[0]
            own = min(count, len(piece.pictures))
            piece.pictures, piece.gone = piece.pictures[own:], True
            count -= own
            if not piece.pictures:
                self._seen.popleft()

    # --- going on ------------------------------------------------------------------------------------------------

    def renew(self, tokens: int, positions: int, vision: int) -> NewContext:
        """Begin a new context with the newest pieces, whose frames are all seen, and with earlier words.

        Args:
            tokens, positions: how large the pieces may be together, and the earlier messages.
            vision: vision tokens of the pieces.
        """
        kept: deque[Piece] = deque()
        least = self._least_before()
        for piece in reversed(self.pieces):
            rest = tokens - piece.length, positions - piece.positions, vision - piece.vision
            if piece.gone or min(rest) < 0 or min(rest[:2]) < least.pop():
                break
            tokens, positions, vision = rest
            kept.appendleft(piece)
        left = list(self.pieces)[: len(self.pieces) - len(kept)]
        self.messages = self._shortened(self._messages(left), min(tokens, positions))
        self.pieces = kept or deque([Piece()])
        self._seen = deque(piece for piece in kept if piece.pictures)
        own = [token for piece in kept for token in (*piece.ids, *piece.drawn)]
        return NewContext([*self.tokens.prefilled(self.messages), *own], self.pictures, len(own))

    def prefill(self, most: int) -> Messages:
        """Messages of `most` tokens, about, with which another session goes on; without frames."""
        return self._shortened(self._messages(self.pieces), most)

    def _least_before(self) -> list[int]:
        """Tokens of the system prompt and the last question before each piece, with which it cannot but begin."""
        begin = opening_size(self.tokens, self.messages)
        asked = next(message for message in reversed(self.messages) if message["role"] == "user")
        last, least = len(self.tokens.ids(asked["content"])), []
        for piece in self.pieces:
            least.append(begin + last)
            if piece.prompts:
                last = len(piece.prompts[-1].ids)
        return least

    def _messages(self, pieces: Sequence[Piece] | deque[Piece]) -> Messages:
        """The messages so far, and those of these pieces."""
        messages = [dict(message) for message in self.messages]
        said: list[str] = []
        for piece in pieces:
            for prompt, inserted in zip(piece.prompts, piece.silences, strict=True):
                _speak(messages, said)
                messages.append({"role": "user", "content": prompt.text})
                said = [SILENCE * inserted]
            said.append(self.tokens.text(piece.drawn))
        _speak(messages, said)
        return messages

    def _shortened(self, messages: Messages, most: int) -> Messages:
        """The system prompt, the last question and the end of its answer, and as many earlier turns as fit."""
        begin = 1 if messages[0]["role"] == "system" else 0
        last = max(number for number, message in enumerate(messages) if message["role"] == "user")
        kept = messages[last:]
        most -= len(self.tokens.prefilled([*messages[:begin], kept[0]]))
        for message in kept[1:]:
            message["content"] = self.tokens.ending(message["content"], max(0, most // 2))
            most -= self._cost(message)
        while last > begin and (most := most - self._cost(messages[last - 1])) >= 0:
            last -= 1
            kept.insert(0, messages[last])
        while kept[0]["role"] == "assistant":
            kept.pop(0)
        return [*messages[:begin], *kept]

    def _cost(self, message: dict[str, str]) -> int:
        return len(self.tokens.ids(message["content"])) + 5


def opening_size(tokens: StreamTokens, messages: Messages) -> int:
    """Tokens of a beginning with the system prompt of these messages and a question, without those of the question."""
    begin = messages[:1] if messages[0]["role"] == "system" else []
    return len(tokens.prefilled([*begin, {"role": "user", "content": ""}]))


def _speak(messages: Messages, said: Sequence[str]) -> None:
    """Add texts to the assistant's turn, which may have begun; of silences in a row, one is told."""
    text = "".join(said)
    if not text:
        return
    if messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    messages[-1]["content"] = SILENCES.sub(SILENCE, messages[-1]["content"] + text)
