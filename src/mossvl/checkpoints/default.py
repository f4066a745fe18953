"""mossvl-tiny, which answers where no checkpoint is named."""

import logging
from pathlib import Path

from mossvl.processes import first_process

NAME = "mossvl-tiny"
CHECKPOINT = Path(__file__).parents[1] / "tiny/checkpoint"
"""Its folder, as `mossvl.load` and `from_pretrained` take it."""

logger = logging.getLogger(__name__)


def default_checkpoint() -> Path:
    """What is used where no checkpoint is named; says so in one line."""
    if first_process():
        logger.warning("no checkpoint is named: this is mossvl-tiny, which knows drawn shapes and no photographs")
    return CHECKPOINT
