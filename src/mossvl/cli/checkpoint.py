"""Opens checkpoints for commands, without progress bars and warnings of libraries."""

import os
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mossvl.checkpoints.default import CHECKPOINT, NAME, with_tiny
from mossvl.checkpoints.location import check_location, repository_of
from mossvl.importing import is_command, without_collector
from mossvl.media.limits import MediaLimits
from mossvl.options.engine import EngineConfig

if TYPE_CHECKING:
    from mossvl.llm import MossVL

P = TypeVar("P")


def check_checkpoint(given: str | None) -> str:
    """Return the given checkpoint, or mossvl-tiny; imports nothing heavy.

    Raises:
        CheckpointError: the checkpoint is neither a folder nor a repository's name.
    """
    folder = str(with_tiny(given))
    check_location(folder)
    return folder


def name_of(folder: str) -> str:
    """Return the name of a checkpoint's folder, or its repository's."""
    return NAME if folder == str(CHECKPOINT) else Path(folder).resolve().name if Path(folder).is_dir() else folder


def open_engine(checkpoint: str | None, limits: MediaLimits, data_parallel_size: int = 1, **options: Any) -> "MossVL":
    """Load a checkpoint, by default mossvl-tiny, into an engine or replicas, with limits and options of `EngineConfig`.

    Raises:
        MossVLError: see `mossvl.MossVL`.
    """
    config = EngineConfig(**options)
    prepare()
    from mossvl.llm import MossVL

    with _status(str(with_tiny(checkpoint))):
        llm = MossVL(checkpoint, config=config, data_parallel_size=data_parallel_size)
    llm.processor.limits = limits
    return llm


def read(part: type[P], folder: str) -> P:
    """Return `part.from_pretrained(folder)`: a configuration, a processor or a tokenizer.

    Raises:
        CheckpointError: a file is missing or malformed.
    """
    from mossvl.checkpoints.headers import usable

    with usable(f"{folder}: its {part.__name__}", missing=True):
        return part.from_pretrained(folder)  # type: ignore[attr-defined]


def prepare() -> None:
    """Register the package's classes, and keep progress bars and warnings of libraries off stderr.

    If TRANSFORMERS_VERBOSITY is set in the environment, warnings follow it.
    """
    with without_collector(own=is_command()):
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


def _status(checkpoint: str) -> AbstractContextManager[object]:
    """Say that a checkpoint is loaded: with a spinner on a terminal, unless the download has bars of its own."""
    if repository_of(checkpoint) or not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(f"loading {checkpoint}")
