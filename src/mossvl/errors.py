"""Every exception that mossvl raises on purpose.

Messages follow one pattern: what was given, what was expected, what to do.
"""


class MossVLError(Exception):
    """Base of all errors raised by this package."""


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


def message_of(error: BaseException) -> str:
    """What to tell a user: the message of an expected error, and the type too of an unexpected one."""
    return str(error) if isinstance(error, MossVLError) else f"{type(error).__name__}: {error}"
