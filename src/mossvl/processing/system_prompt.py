"""Which system prompt a conversation begins with: its own, or a fixed one that newer checkpoints were trained with.

This is the one definition for queries, the offline methods, records of data files and the command line.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from mossvl.errors import OptionError, PromptError
from mossvl.options.checks import check_names, named_options

PICTURES = "You are a helpful AI assistant. Respond to the user's request based on the provided text and/or images."
VIDEO = (
    "You are a helpful AI assistant specializing in video analysis. "
    "Respond to the user's request based on the provided video content."
)
"""The published system prompts of `no_thinking`, word by word."""

THINKING_MODES = {
    **dict.fromkeys(("no_thinking", "default", "standard"), False),
    **dict.fromkeys(("deep_thinking", "thinking", "reasoning"), True),
}
"""Names of modes, and whether the model is asked to think first."""
SYSTEM_PROMPT_TYPES = {
    **dict.fromkeys(("text_image", "text", "image", "text-image", "image_text", "image-text"), PICTURES),
    "video": VIDEO,
}
"""Names of what conversations are about, and the system prompts for it."""
TYPES_TOLD = ("text_image", "text", "image", "video")
"""Those that an error names; the others are `text_image`, spelled in another way."""


@named_options("key of a system prompt")
@dataclass(frozen=True)
class SystemPrompt:
    """What is said of a conversation's system prompt; where nothing is, it has none.

    Attributes:
        system_prompt: its text, which counts whatever else is given; an empty one is as if it were not given.
        thinking_mode: the fixed prompt of this mode: one of `THINKING_MODES`.
        system_prompt_type: the fixed prompt for this: one of `SYSTEM_PROMPT_TYPES`; by default "video" for a
            conversation with a video, and "text_image" for others.
        use_default_system_prompt: true for a fixed prompt where neither of the two is given, too; false for none.

    Raises:
        OptionError: a value is unknown (the nearest known one is named).
        PromptError: `system_prompt` is no text.
    """

    system_prompt: str | None = None
    thinking_mode: str | None = None
    system_prompt_type: str | None = None
    use_default_system_prompt: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.system_prompt, str | None):
            raise PromptError(f"system_prompt={self.system_prompt!r:.200} must be a text")
        _check("thinking_mode", self.thinking_mode, THINKING_MODES, tuple(THINKING_MODES))
        _check("system_prompt_type", self.system_prompt_type, SYSTEM_PROMPT_TYPES, TYPES_TOLD)
        if not isinstance(self.use_default_system_prompt, bool | None):
            raise OptionError(f"use_default_system_prompt={self.use_default_system_prompt!r:.40} must be true or false")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From the keys of a query or of a record, which may have others, too."""
        return cls(**{name: given[name] for name in SYSTEM_PROMPT_KEYS if name in given})

    def text(self, video: bool, has_own: bool = False) -> str | None:
        """The system prompt that a conversation is given; None for none.

        Args:
            video: there is a video in it.
            has_own: it begins with a system turn, beside which no fixed prompt is chosen.

        Raises:
            OptionError: the mode's fixed prompt is not known.
        """
        if self.system_prompt or has_own:
            return self.system_prompt or None
        if THINKING_MODES.get(self.thinking_mode or ""):
            raise OptionError(
                f"thinking_mode={self.thinking_mode!r} needs a system_prompt: the published one, which asks for "
                "<thinking></thinking><answer></answer>, could not be read; give it, or use 'no_thinking'"
            )
        if self.use_default_system_prompt is False:
            return None
        if self.system_prompt_type is not None:
            return SYSTEM_PROMPT_TYPES[self.system_prompt_type]
        if self.use_default_system_prompt or self.thinking_mode is not None:
            return VIDEO if video else PICTURES
        return None


SYSTEM_PROMPT_KEYS = tuple(one.name for one in fields(SystemPrompt))


def with_system_turn(messages: Sequence[Mapping[str, Any]], text: str | None) -> list[dict[str, Any]]:
    """Messages that begin with this system prompt, if there is one, and none of their own."""
    own = [dict(message) for message in messages]
    return own if not text or own[0]["role"] == "system" else [{"role": "system", "content": text}, *own]


def with_system_prompt(query: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """A query, with a default's keys of the system prompt where it has none of them itself."""
    own = any(query.get(name) is not None for name in SYSTEM_PROMPT_KEYS)
    return dict(query) if own else {**query, **default}


def _check(name: str, value: Any, known: Iterable[str], told: Sequence[str]) -> None:
    if value is not None and not (isinstance(value, str) and value in known):
        check_names([value], told, name)
