"""mossvl-tiny: a small MOSS-VL that knows the procedural world, trained from scratch, inside the package."""

from mossvl.checkpoints.default import CHECKPOINT as CHECKPOINT
from mossvl.checkpoints.default import NAME as NAME
