"""mossvl-tiny, the default checkpoint."""

import logging
from pathlib import Path

from mossvl.ranks import first_process

NAME = "mossvl-tiny"
CHECKPOINT = Path(__file__).parents[1] / "tiny/checkpoint"
"""Folder of mossvl-tiny, for `mossvl.load` and `from_pretrained`."""

logger = logging.getLogger(__name__)


def with_tiny(checkpoint: str | Path) -> str | Path:
    """Return the folder of mossvl-tiny if its name is given, and no folder here is named so; else what is given."""
    return CHECKPOINT if str(checkpoint) == NAME and not Path(checkpoint).exists() else checkpoint


def default_checkpoint() -> Path:
    """Return the folder of mossvl-tiny, and log a warning that no checkpoint is named."""
    if first_process():
        logger.warning("no checkpoint is named: this is mossvl-tiny, which knows drawn shapes and no photographs")
    return CHECKPOINT
