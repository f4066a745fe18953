"""The reference implementation's cases, with media names turned into paths."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "golden"
MEDIA = FOLDER / "media"
CHECKPOINT = FOLDER / "checkpoint"


def with_paths(value: Any) -> Any:
    """`@name` stands for a file in the media folder."""
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
