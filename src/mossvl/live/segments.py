"""The tokens of a live stream, piece by piece: its opening, prompts, frames, and the silence that is put after prompts.

Every piece begins and ends at a special token or where the model draws, so that the tokens of the whole stream are
those of its pieces. The text is that of `mossvl.processing.stream`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from mossvl.errors import PromptError
from mossvl.processing.messages import check_characters
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.prompt import TIME_END, TIME_START
from mossvl.processing.stream import StateTokens, frame_text, mentioning, prompt_text
from mossvl.scheduling.request import Spared

ROUND_START = "<|round_start|>"
"""What the published loop tells its reader of each prompt; no token."""
NEVER_DRAWN = ("<|...|>", ROUND_START, "<|round_end|>")


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame of a stream, ready to be encoded.

    Attributes:
        time: seconds of the stream.
        ids: tokens of the frame's marks, time and image token.
        grid: patch rows and columns.
        patches, digest: as in `mossvl.sources.source.Frame`.
        pushed: when it was pushed, in seconds of the session's clock.
    """

    time: float
    ids: list[int]
    grid: tuple[int, int]
    patches: Tensor
    digest: bytes
    pushed: float


@dataclass(frozen=True, eq=False)
class Asked:
    """A prompt of a stream, and its tokens."""

    text: str
    ids: list[int]


@dataclass(frozen=True)
class Segment:
    """What is appended to a stream at once.

    Attributes:
        ids: tokens.
        pictures: the frames, in the order of their image tokens.
        silences: for each prompt, whether a silence was put after it.
    """

    ids: list[int]
    pictures: list[Picture]
    silences: list[bool]


def segment(prompts: Sequence[Asked], frames: Sequence[Picture], silence: int, always: bool) -> Segment:
    """The segment of prompts, in their order, and then of frames by time.

    Args:
        silence: id of `<|silence|>`.
        always: a silence follows each prompt; otherwise only if there are frames (as published).
    """
    ids: list[int] = []
    inserted = always or bool(frames)
    for prompt in prompts:
        ids += [*prompt.ids, *[silence] * inserted]
    pictures = sorted(frames, key=lambda frame: frame.time)
    for picture in pictures:
        ids += picture.ids
    return Segment(ids, pictures, [inserted] * len(prompts))


class StreamTokens:
    """Tokenises the pieces of a stream, in any thread.

    Raises:
        CheckpointError: the tokenizer lacks a state token.
    """

    def __init__(self, processor: MossVLProcessor) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        states = StateTokens.of(processor.tokenizer)
        self.silence, self.response = states.silence, states.response
        self.merge = int(processor.image_processor.merge_size)

    @cached_property
    def special(self) -> dict[int, str]:
        """Special tokens by id."""
        added = self.tokenizer.added_tokens_decoder.items()
        return {number: token.content for number, token in added if token.special}

    @property
    def spared(self) -> Spared:
        """Control tokens, and the times of frames."""
        begin, end = (int(self.tokenizer.convert_tokens_to_ids(mark)) for mark in (TIME_START, TIME_END))
        return Spared(frozenset(self.special), begin, end)

    @property
    def never_drawn(self) -> list[int]:
        """Ids of the tokens that the model must not draw: what hosts write, where a vocabulary has it."""
        known = self.tokenizer.get_vocab()
        return [known[name] for name in NEVER_DRAWN if name in known]

    def ids(self, text: str) -> list[int]:
        check_characters(text)
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def frame(self, time: float) -> list[int]:
        return self.ids(frame_text(time))

    def prompt(self, text: str) -> list[int]:
        """Tokens of a later prompt.

        Raises:
            PromptError: it is empty.
        """
        return self.ids(prompt_text(self.asked(text)))

    def asked(self, text: Any) -> str:
        """A prompt without special tokens.

        Raises:
            PromptError: nothing is left of it.
        """
        if not isinstance(text, str):
            raise PromptError(f"the prompt {text!r:.100} must be a text")
        cleaned = self.processor.without_special(text)
        if not cleaned.strip():
            raise PromptError("the prompt is empty; give a text")
        return cleaned

    def prefilled(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Tokens of the beginning as messages: the last one's turn stays open if it is the assistant's."""
        cleaned = {"user": self.processor.without_special}
        parts = [
            f"<|im_start|>{one['role']}\n{cleaned.get(one['role'], self.mentioning)(one['content'])}"
            for one in messages
        ]
        ends = messages[-1]["role"] == "assistant"
        text = "<|im_end|>\n".join(parts)
        return self.ids(text if ends else f"{text}<|im_end|>\n<|im_start|>assistant\n")

    def text(self, ids: Sequence[int]) -> str:
        """The text of drawn tokens, with the state tokens in it, but no others."""
        return self.mentioning(str(self.tokenizer.decode(list(ids), skip_special_tokens=False))) if ids else ""

    def ending(self, text: str, most: int) -> str:
        """The end of a text, of `most` tokens at most."""
        ids = self.ids(text)
        return text if len(ids) <= most else self.text(ids[len(ids) - most :]).lstrip("\ufffd")

    def mentioning(self, text: str) -> str:
        """A text without special tokens but for the two state tokens, which it may mention."""
        return mentioning(text, self.processor.removed)
