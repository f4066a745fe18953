"""What the extras of the package bring, and whether it is there."""

import re
from importlib import metadata

from mossvl.errors import OptionError


def need(extra: str) -> None:
    """See that everything of an extra is installed.

    Raises:
        OptionError: something is missing; says what brings it.
    """
    try:
        requirements = metadata.requires("mossvl") or []
    except metadata.PackageNotFoundError:  # run from its sources alone
        return
    names = [requirement for requirement in requirements if re.search(rf"extra == ['\"]{extra}['\"]", requirement)]
    missing = [name for name in (re.split(r"[^\w.-]", requirement)[0] for requirement in names) if not installed(name)]
    if missing:
        raise OptionError(
            f"{', '.join(missing)} not installed; this command needs the extra {extra!r}: pip install '.[{extra}]' in "
            "a clone of mossvl"
        )


def installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
