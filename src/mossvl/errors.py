"""Every exception that mossvl raises on purpose.

A message says what was given, what was expected, and what to do.
"""

import re
import shlex
from collections.abc import Mapping
from copy import copy
from pathlib import PurePath
from typing import Any, Self

NAME = re.compile(r"[\w-]*")
"""The name of an option, of which a part may follow."""


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
        return printable(self.worded(names) + advice.format(name))

    def worded(self, names: Mapping[str, str]) -> str:
        """Return the message without its advice, with options named as in `names`."""
        return super().__str__()

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

    Args:
        message: in it, `{name}` stands for the name of an option that is told of, `{name=}` for its name and value.
        given: values of options that the message tells of, by name.
        option: the option that is wrong; by default the first one of `given`.

    Attributes:
        option: None if the error is about no option alone.
        owner: name of the class whose option it is, as options of several classes may have one name; None if unknown.
    """

    def __init__(
        self,
        message: str = "",
        *,
        given: Mapping[str, Any] | None = None,
        option: str | None = None,
        setting: str | None = None,
        advice: str = "",
    ) -> None:
        super().__init__(message, setting=setting, advice=advice)
        self._values = {name: (shown(value), typed(value)) for name, value in (given or {}).items()}
        self._names = {name: name for name in (*self._values, *([option] if option else ()))}
        """How options are named, by their names in the message."""
        self.option = option or next(iter(self._values), None)
        self.owner: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def worded(self, names: Mapping[str, str]) -> str:
        if not self._names:
            return super().worded(names)

        def told(field: re.Match[str]) -> str:
            name = self._named(self._names[field[1]], names)
            if not field[2]:
                return name
            value, as_typed = self._values[field[1]]
            return f"{name} {as_typed}" if name.startswith("-") else f"{name}={value}"

        known = "|".join(map(re.escape, self._names))
        return re.sub(rf"\{{({known})(=?)\}}", told, super().worded(names))

    def _named(self, name: str, names: Mapping[str, str]) -> str:
        """Return a reader's name of an option, or of a part of one: `logit_bias[5]`."""
        whole = NAME.match(name)[0]  # type: ignore[index]  # It matches everything.
        return names.get(f"{self.owner}.{whole}", names.get(whole, whole)) + name[len(whole) :]

    def named(self, names: Mapping[str, str]) -> Self:
        """Return the error for a reader to whom options have the names in `names`."""
        renamed = copy(self)
        renamed._names = {own: self._named(name, names) for own, name in self._names.items()}
        renamed.option = self.option and self._named(self.option, names)
        return renamed


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


def shown(value: Any, most: int = 200) -> str:
    """Return the truncated `repr` of a value, or its type if `repr` fails (huge integers, deeply nested lists)."""
    try:
        return f"{value!r:.{most}}"
    except (ValueError, RecursionError):
        return f"<{type(value).__name__}>"


def typed(value: Any, most: int = 200) -> str:
    """Return the truncated value as it is typed on a command line."""
    match value:
        case str() | PurePath():
            return shlex.quote(str(value)[:most])
        case list() | tuple():
            return " ".join(typed(one) for one in value)[:most]
        case float():
            return shown(value).removesuffix(".0")
    return shown(value, most)


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
