"""Checks that the extras of the package are installed."""

import re
from importlib import metadata

from mossvl.errors import OptionError


def need(extra: str) -> None:
    """Check that the requirements of an extra are installed.

    Raises:
        OptionError: a requirement is missing; the message says how to install the extra.
    """
    try:
        requirements = metadata.requires("mossvl") or []
    except metadata.PackageNotFoundError:  # The package runs from its sources, not installed.
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
