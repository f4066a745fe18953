"""Opening a checkpoint for a command: found or explained, and without the chatter of the libraries below."""

import os
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from mossvl.checkpoints.default import default_checkpoint
from mossvl.checkpoints.location import check_location
from mossvl.media.limits import MediaLimits

if TYPE_CHECKING:
    from mossvl.llm import MossVL

P = TypeVar("P")


def check_checkpoint(given: str | None) -> str:
    """The checkpoint as given, once it is sure that there could be one; mossvl-tiny's if none is given.

    Raises:
        CheckpointError: there is no such folder.
    """
    if given is None:
        return str(default_checkpoint())
    check_location(given)
    return given


def open_engine(
    checkpoint: str, device: str | None, dtype: str | None, limits: MediaLimits, **options: Any
) -> "MossVL":
    """The model behind an engine, with `limits` on media and the engine's `options`.

    Raises:
        MossVLError: see `mossvl.MossVL`.
    """
    prepare()
    from mossvl.llm import MossVL

    with _status(f"loading {checkpoint}"):
        llm = MossVL(checkpoint, device=device, dtype=dtype, **options)
    llm.processor.limits = limits
    return llm


def read(part: type[P], folder: str) -> P:
    """`part.from_pretrained(folder)`: a configuration, a processor or a tokenizer.

    Raises:
        CheckpointError: its file is missing or cannot be used.
    """
    from mossvl.checkpoints.headers import usable

    with usable(f"{folder}: its {part.__name__}", missing=True):
        return part.from_pretrained(folder)  # type: ignore[attr-defined]


def prepare() -> None:
    """Register the package's classes, and keep progress bars and warnings of libraries off stderr.

    Warnings are left to a TRANSFORMERS_VERBOSITY in the environment, if there is one.
    """
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from transformers.utils import logging

    from mossvl.registration import register

    register()
    logging.disable_progress_bar()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
        warnings.filterwarnings("ignore", module=r"(huggingface_hub|torch|transformers)\b")
    if not sys.stderr.isatty():
        disable_progress_bars()


def _status(text: str) -> AbstractContextManager[object]:
    """A line with a spinner while something takes long; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)
