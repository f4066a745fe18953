"""mossvl-tiny: a small MOSS-VL that knows the procedural world, trained from scratch, inside the package."""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The folder of its weights, as `from_pretrained` takes it."""
