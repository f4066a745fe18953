"""Every exception that mossvl raises on purpose.

A message says what was given, what was expected, and what to do.
"""

from collections.abc import Mapping
from copy import copy
from typing import Self


class MossVLError(Exception):
    """Base of all errors raised by this package.

    Args:
        message: what was given, and what was expected.
        setting: the setting to change, by its Python name: "MediaLimits.timeout".
        advice: appended to the message, with the setting's name in place of `{}`: "; raise {}". The advice is left out
            for a reader who has names of settings, but none of this one.
    """

    names: Mapping[str, str] = {}
    """Names of settings in messages, such as command-line flags, by the settings' Python names."""

    def __init__(self, message: str = "", *, setting: str | None = None, advice: str = "") -> None:
        super().__init__(message)
        self.setting, self.advice = setting, advice

    def __str__(self) -> str:
        return self.told(self.names)

    def told(self, names: Mapping[str, str]) -> str:
        """Return the message, with the setting named as in `names`, and control characters escaped."""
        name = names.get(self.setting or "") if names else self.setting
        advice = "" if self.setting and name is None else self.advice
        return printable(super().__str__() + advice.format(name))

    def plain(self) -> Self:
        """Return the error without its traceback and cause, for another process."""
        return copy(self)


class InputError(MossVLError, ValueError):
    """The caller's input cannot be used; the message says why and what to change."""


class MediaError(InputError):
    """An image or a video is missing, broken, too large, or of another format than declared."""


class PromptError(InputError):
    """A prompt or its messages are malformed, or do not match the media that were given."""


class ContextLengthError(PromptError):
    """A prompt and the tokens to generate exceed the model's context length."""


class OptionError(InputError):
    """An option is unknown or its value is out of range.

    Attributes:
        option: the name of the option, with which the message begins; None if it is about none alone.
    """

    def __init__(
        self, message: str = "", *, option: str | None = None, setting: str | None = None, advice: str = ""
    ) -> None:
        super().__init__(message, setting=setting, advice=advice)
        self.option = option

    def named(self, names: Mapping[str, str]) -> "OptionError":
        """Return the error in the words of a reader to whom the option has another name, if it is in `names`."""
        if self.option is None or self.option not in names:
            return self
        name, (message,) = names[self.option], self.args
        return OptionError(name + message.removeprefix(self.option), option=name)


class DataError(InputError):
    """A line or record of a data file cannot be read as a query."""


class CheckpointError(MossVLError, ValueError):
    """A checkpoint is incomplete, of another model type, or does not fit its configuration."""


class GenerationCancelled(MossVLError):
    """A query was cancelled before its answer was complete."""


class GenerationTimeout(MossVLError, TimeoutError):
    """A query, or the loading of its media, exceeded its time limit."""


class TrainingError(MossVLError):
    """A training run cannot go on: its loss is not finite, or a checkpoint cannot be written."""


class ResourceError(MossVLError):
    """The machine is out of disk space, memory or processes for now; the input may be fine."""


class SessionLimitError(ResourceError):
    """No live session more fits into the engine for now."""


class EngineError(MossVLError):
    """The engine takes no query: its device has failed, it is being closed, or its process was forked."""


class ReplicaError(EngineError):
    """The replica that answered a query has died or failed; the same query can be asked again."""


class PushTimeout(MossVLError, TimeoutError):
    """A live session had no room for a frame within the time limit of `push`; nothing of it was taken."""


class SessionClosed(MossVLError, RuntimeError):
    """A live session has ended, and takes no input any more."""


def message_of(error: BaseException, names: Mapping[str, str] | None = None) -> str:
    """Return the message for a user (see `told`); an unexpected error also names its type."""
    if isinstance(error, MossVLError):
        return error.told(names or {})
    return printable(f"{type(error).__name__}: {error}")


def first_line(error: BaseException) -> str:
    """Return the first line of another library's message, or the error's type where there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def printable(text: str) -> str:
    """Escape, as Python does, what must reach no terminal and no log: control characters except newlines,
    bidirectional marks, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else repr(one)[1:-1] for one in text)
