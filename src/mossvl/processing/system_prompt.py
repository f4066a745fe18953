"""The system prompt of a conversation: its own, or a fixed one with which newer checkpoints were trained.

Queries, the offline methods, records of data files and the command line share this definition.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from mossvl.errors import OptionError, PromptError
from mossvl.options.checks import hint, named_options

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
"""Names of modes, and whether a mode asks the model to think first."""
SYSTEM_PROMPT_TYPES = {
    **dict.fromkeys(("text_image", "text", "image", "text-image", "image_text", "image-text"), PICTURES),
    "video": VIDEO,
}
"""Names of types of conversations, and their fixed system prompts."""
TYPES_TOLD = ("text_image", "text", "image", "video")
"""Types that errors and the command line name; the others are spellings of `text_image`."""


@named_options("key of a system prompt")
@dataclass(frozen=True)
class SystemPrompt:
    """Options that choose the system prompt of a conversation; without any, there is none.

    Attributes:
        system_prompt: the text; if not empty, the other options have no effect.
        thinking_mode: choose the fixed prompt of this mode: one of `THINKING_MODES`.
        system_prompt_type: choose the fixed prompt of this type: one of `SYSTEM_PROMPT_TYPES`; by default "video" for
            a conversation with a video, "text_image" for others.
        use_default_system_prompt: true chooses a fixed prompt even without mode and type; false chooses none.

    Raises:
        OptionError: a value is unknown; the error names the nearest known one.
        PromptError: `system_prompt` is not a text.
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
            raise OptionError(
                "{use_default_system_prompt=} must be true or false",
                given={"use_default_system_prompt": self.use_default_system_prompt},
            )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From a query or a record; keys other than `SYSTEM_PROMPT_KEYS` are ignored."""
        return cls(**{name: given[name] for name in SYSTEM_PROMPT_KEYS if name in given})

    def text(self, video: bool, has_own: bool = False) -> str | None:
        """The system prompt to prepend to a conversation; None for none.

        Args:
            video: the conversation has a video.
            has_own: the conversation begins with a system turn; then no fixed prompt is chosen.

        Raises:
            OptionError: the mode's fixed prompt is not known.
        """
        if self.system_prompt or has_own:
            return self.system_prompt or None
        if THINKING_MODES.get(self.thinking_mode or ""):
            raise OptionError(
                "{thinking_mode=} needs a {system_prompt}: the published one, which asks for "
                "<thinking></thinking><answer></answer>, could not be read; give it, or use 'no_thinking'",
                given={"thinking_mode": self.thinking_mode, "system_prompt": None},
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
    """Prepend the system prompt `text`, unless it is empty or the messages begin with a system turn."""
    own = [dict(message) for message in messages]
    return own if not text or own[0]["role"] == "system" else [{"role": "system", "content": text}, *own]


def with_system_prompt(query: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """A query, with the keys of `default` if the query has no key of `SYSTEM_PROMPT_KEYS`."""
    own = any(query.get(name) is not None for name in SYSTEM_PROMPT_KEYS)
    return dict(query) if own else {**query, **default}


def _check(name: str, value: Any, known: Iterable[str], told: Sequence[str]) -> None:
    if value is not None and not (isinstance(value, str) and value in known):
        raise OptionError(f"{{{name}=}} is unknown; {hint(value, sorted(told))}", given={name: value})
