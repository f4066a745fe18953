"""Every exception that mossvl raises on purpose.

Messages follow one pattern: what was given, what was expected, what to do.
"""

from collections.abc import Mapping
from typing import Self


class MossVLError(Exception):
    """Base of all errors raised by this package.

    Args:
        message: what was given, and what was expected.
        setting: a setting that would help, as Python names it: "MediaLimits.timeout".
        advice: what follows the message, with `{}` where the setting is named: "; raise {}".
    """

    names: Mapping[str, str] = {}
    """What whoever reads the message knows settings by, such as flags."""

    def __init__(self, message: str = "", *, setting: str | None = None, advice: str = "") -> None:
        super().__init__(message)
        self.setting, self.advice = setting, advice

    def __str__(self) -> str:
        return self.told(self.names)

    def told(self, names: Mapping[str, str]) -> str:
        """The message for a reader who knows settings by these names."""
        setting = self.setting or ""
        return super().__str__() + self.advice.format(names.get(setting, setting))

    def plain(self) -> Self:
        """The same error without where it comes from, to be sent to another process."""
        return type(self)(super().__str__(), setting=self.setting, advice=self.advice)


class InputError(MossVLError, ValueError):
    """The caller's input cannot be used; the message says why and what to change."""


class MediaError(InputError):
    """An image or a video is missing, broken, too large, or not what it was said to be."""


class PromptError(InputError):
    """A prompt or its messages are malformed, or do not match the media given with them."""


class ContextLengthError(PromptError):
    """A prompt, with the tokens asked for, is longer than the model's context."""


class OptionError(InputError):
    """An option is unknown or its value is out of range."""


class DataError(InputError):
    """A line or record of a data file cannot be read as a query."""


class CheckpointError(MossVLError, ValueError):
    """A checkpoint is incomplete, of another model type, or does not fit its configuration."""


class GenerationCancelled(MossVLError):
    """A query was cancelled before its answer was complete."""


class GenerationTimeout(MossVLError, TimeoutError):
    """A query, or the loading of its media, took longer than its time limit."""


class TrainingError(MossVLError):
    """A training run cannot go on: its loss is no number, or a checkpoint cannot be written."""


class ResourceError(MossVLError):
    """This machine lacks, for now, what the work needs: disk space, memory, processes. The input may be fine."""


class EngineError(MossVLError):
    """The engine cannot go on: its device has failed. Everything that ran has ended, and nothing new is taken."""


def message_of(error: BaseException, names: Mapping[str, str] | None = None) -> str:
    """What to tell a user: the message of an expected error (see `told`), and the type too of an unexpected one."""
    return error.told(names or {}) if isinstance(error, MossVLError) else f"{type(error).__name__}: {error}"
