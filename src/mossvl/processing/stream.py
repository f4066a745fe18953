"""The text of a live stream: turns, decision slots and frames. Training and running sessions share this definition.

A stream is ChatML: a system turn, then a user's turn (its prompt may be empty) and the assistant's. In the assistant's
turn, decision slots and frames alternate. A slot is `<|silence|>`; or `<|response|>` and a chunk of a reply, which
goes on after the next frame unless `<|silence|>` closes the chunk. Nothing stands between slots and frames.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from transformers import PreTrainedTokenizerBase

from mossvl.errors import CheckpointError
from mossvl.processing.messages import without_special
from mossvl.processing.prompt import IMAGE_TOKEN, TIME_END, TIME_START, VISION_END, VISION_START

SILENCE, RESPONSE = "<|silence|>", "<|response|>"
"""State tokens: keep watching, which also ends a reply; and speak."""
TURN_END = "<|im_end|>\n"
REALTIME = (
    "You are a helpful AI assistant specializing in real-time video analysis. The video streams to you frame by frame. "
    "At every frame, you decide independently whether to respond or stay silent — output `<|silence|>` when nothing "
    "relevant has happened, and respond when the visual content warrants it."
)
"""The published system prompt that selects the mode, to the byte."""


def mentioning(text: str, special: Iterable[str]) -> str:
    """A system prompt without these special tokens, but for the state tokens, which it may mention."""
    return without_special(text, [token for token in special if token not in (SILENCE, RESPONSE)])


def frame_text(time: float) -> str:
    """A frame of a stream at `time` (seconds): unlike frames of a video, each has start and end marks of its own."""
    return f"{VISION_START}{TIME_START}{time:.1f} seconds{TIME_END}{IMAGE_TOKEN}{VISION_END}"


def opening_text(system_prompt: str, prompt: str) -> str:
    """The beginning of a stream: the system turn, the first prompt, and the beginning of the assistant's turn."""
    return f"<|im_start|>system\n{system_prompt}{TURN_END}{_asked(prompt)}"


def prompt_text(prompt: str) -> str:
    """A later prompt: the end of the assistant's turn, the prompt, and the beginning of the next assistant's turn."""
    return f"{TURN_END}{_asked(prompt)}"


def _asked(prompt: str) -> str:
    return f"<|im_start|>user\n{prompt}{TURN_END}<|im_start|>assistant\n"


@dataclass(frozen=True)
class StateTokens:
    """Token ids of `SILENCE` and `RESPONSE`."""

    silence: int
    response: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Self:
        """Find the state tokens by name.

        Raises:
            CheckpointError: the tokenizer lacks one.
        """
        found = cls.find(tokenizer)
        if found is None:
            known = tokenizer.get_vocab()
            lacking = " and ".join(token for token in (SILENCE, RESPONSE) if token not in known)
            raise CheckpointError(
                f"the tokenizer of this checkpoint has no {lacking}, with which live streams are written; use a "
                "Realtime checkpoint, or mossvl-tiny"
            )
        return found

    @classmethod
    def find(cls, tokenizer: PreTrainedTokenizerBase) -> Self | None:
        """The state tokens, or None if the tokenizer lacks one."""
        added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
        return cls(added[SILENCE], added[RESPONSE]) if SILENCE in added and RESPONSE in added else None
