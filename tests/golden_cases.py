"""The reference implementation's cases, with media names turned into paths."""

import json
from pathlib import Path
from typing import Any

from PIL import Image as pillow

FOLDER = Path(__file__).parent / "golden"
MEDIA = FOLDER / "media"
CHECKPOINT = FOLDER / "checkpoint"


def with_paths(value: Any) -> Any:
    """`@name` stands for a file in the media folder.

    The reference implementation drops a picture's alpha, where we show it on white: we are given what it sees.
    """
    if value == "@alpha.png":
        with pillow.open(MEDIA / "alpha.png") as image:
            return image.convert("RGB")
    if isinstance(value, str) and value.startswith("@"):
        return str(MEDIA / value[1:])
    if isinstance(value, list):
        return [with_paths(item) for item in value]
    if isinstance(value, dict):
        return {name: with_paths(item) for name, item in value.items()}
    return value


def read(name: str) -> Any:
    return with_paths(json.loads((FOLDER / name).read_text()))


CASES = read("cases.json")
PROTOCOL = read("protocol.json")
LABELS = read("labels.json")
TABLES = json.loads((FOLDER / "tables.json").read_text())
