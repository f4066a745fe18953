"""mossvl-tiny, the default checkpoint."""

import logging
from pathlib import Path

from mossvl.ranks import first_process

NAME = "mossvl-tiny"
CHECKPOINT = Path(__file__).parents[1] / "tiny/checkpoint"
"""Folder of mossvl-tiny, for `mossvl.load` and `from_pretrained`."""

logger = logging.getLogger(__name__)


def with_tiny(checkpoint: str | Path | None) -> str | Path:
    """Return what is given; the folder of mossvl-tiny for None, and for its name unless a folder here has it."""
    if checkpoint is None or (str(checkpoint) == NAME and not Path(checkpoint).exists()):
        return CHECKPOINT
    return checkpoint


def tell_default(checkpoint: str | Path | None) -> None:
    """Log a warning if no checkpoint is named; where all that was given has been checked, so that errors come first."""
    if checkpoint is None and first_process():
        logger.warning("no checkpoint is named: this is mossvl-tiny, which knows drawn shapes and no photographs")
