"""Checks of where a checkpoint or an adapter is, without heavy imports."""

import os
from pathlib import Path

from mossvl.errors import CheckpointError


def check_location(checkpoint: str | Path, what: str = "a MOSS-VL checkpoint") -> None:
    """Refuse what is neither a folder nor the name of a repository on the model hub.

    Args:
        what: it should be, in words.

    Raises:
        CheckpointError: there is no such folder.
    """
    if not os.path.isdir(checkpoint) and repository_of(checkpoint) is None:
        raise CheckpointError(
            f"{checkpoint} is not a folder; expected the folder of {what}, or OWNER/NAME of a repository on the model "
            "hub"
        )


def check_trained(adapter: Path) -> None:
    """Refuse a folder that `mossvl train` has not written as an adapter.

    Raises:
        CheckpointError: it holds no configuration of an adapter.
    """
    if not (adapter / "adapter_config.json").is_file():
        inner = f"; it is {adapter / 'adapter'}" if (adapter / "adapter").is_dir() else ""
        raise CheckpointError(
            f"{adapter} holds no adapter_config.json; expected the adapter that `mossvl train` wrote{inner}"
        )


def repository_of(checkpoint: str | Path) -> tuple[str, str | None] | None:
    """Return the name of a repository and its revision, of `owner/name` or `owner/name@revision`; None of a path.

    A revision is a branch, a tag or a commit; None is the main branch.
    """
    given = str(checkpoint)
    if given.startswith((".", "~", "/")) or os.path.exists(given):
        return None
    name, _, revision = given.partition("@")
    owner, _, rest = name.partition("/")
    return (name, revision or None) if owner and rest and "/" not in rest else None
