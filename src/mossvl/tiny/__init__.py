"""mossvl-tiny: a small MOSS-VL for the procedural world, trained from scratch and shipped with the package."""

from mossvl.checkpoints.default import CHECKPOINT as CHECKPOINT
from mossvl.checkpoints.default import NAME as NAME
