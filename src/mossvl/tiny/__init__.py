"""mossvl-tiny: a small MOSS-VL that knows the procedural world, trained from scratch, inside the package."""

import logging
from pathlib import Path

from mossvl.processes import first_process

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""Its folder, as `mossvl.load` and `from_pretrained` take it."""

logger = logging.getLogger(__name__)


def default_checkpoint() -> Path:
    """What answers where no checkpoint is named; says so in one line."""
    if first_process():
        logger.warning("no checkpoint is named, so mossvl-tiny answers: it knows drawn shapes, not photographs")
    return CHECKPOINT
