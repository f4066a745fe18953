"""LLaMA-Factory's `dataset_info.json`: how the files of its folder name columns, roles and texts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mossvl.errors import DataError

FILE = "dataset_info.json"
COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "messages": "conversations"}
"""Its names of columns, with the keys of records in this package; other columns have the same name in both."""
ROLE_TAGS = {
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
    "observation_tag": "observation",
    "function_tag": "function_call",
}


@dataclass(frozen=True)
class Naming:
    """The names in a file of records.

    Attributes:
        columns: the key of a record for each of the file's columns that has another name.
        role, content: keys of a turn.
        roles: the role of a turn for each of the file's names.
    """

    columns: Mapping[str, str]
    role: str
    content: str
    roles: Mapping[str, str]

    @classmethod
    def of(cls, file: Path) -> Self | None:
        """The names that the `dataset_info.json` beside a file gives it, None without an entry for the file.

        Raises:
            DataError: the entry is malformed.
        """
        try:
            listed = json.loads((file.parent / FILE).read_bytes())
        except (OSError, ValueError):
            return None
        entries = listed.values() if isinstance(listed, dict) else []
        entry = next((one for one in entries if isinstance(one, dict) and one.get("file_name") == file.name), None)
        if entry is None:
            return None
        columns, tags = ({} if entry.get(name) is None else entry[name] for name in ("columns", "tags"))
        for name, value in (("columns", columns), ("tags", tags)):
            if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
                raise DataError(f"{file.parent / FILE}: {name}={value!r:.80} of {file.name} must be an object of texts")
        return cls(
            {given: COLUMNS.get(name, name) for name, given in columns.items()},
            tags.get("role_tag", "from"),
            tags.get("content_tag", "value"),
            {tags[name]: role for name, role in ROLE_TAGS.items() if name in tags},
        )

    def renamed(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record of the file with the keys and roles of this package."""
        found = {self.columns.get(name, name): value for name, value in record.items()}
        turns = found.get("conversations")
        if isinstance(turns, list):
            found["conversations"] = [self._turn(turn) if isinstance(turn, dict) else turn for turn in turns]
        return found

    def _turn(self, turn: Mapping[str, Any]) -> dict[str, Any]:
        found = {{self.role: "from", self.content: "value"}.get(name, name): value for name, value in turn.items()}
        role = found.get("from")
        return {**found, "from": self.roles.get(role, role)} if isinstance(role, str) else found
