"""Check of a checkpoint's location, without heavy imports."""

from pathlib import Path

from mossvl.errors import CheckpointError


def check_location(checkpoint: str | Path) -> None:
    """Refuse what is neither a folder nor the name of a repository on the model hub (`owner/name`).

    Raises:
        CheckpointError: there is no such folder.
    """
    given = str(checkpoint)
    names_repository = given.count("/") == 1 and not given.startswith((".", "~", "/")) and not Path(given).exists()
    if not Path(given).is_dir() and not names_repository:
        raise CheckpointError(f"{given} is not a folder; expected the folder of a MOSS-VL checkpoint")
