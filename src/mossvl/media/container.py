"""Opens containers with every supported PyAV."""

from typing import Any

import av
from av.container import InputContainer

_TITLES: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Titles that are not UTF-8 are no reason to refuse a file; PyAV 19 keeps them, and knows this argument no more."""


def open_container(address: str, **options: Any) -> InputContainer:
    """Open a file or a stream for reading; arguments and errors are those of `av.open`."""
    return av.open(address, **_TITLES, **options)
