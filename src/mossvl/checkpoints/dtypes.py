"""Dtypes that models compute in, and that configurations may name."""

from typing import Any

import torch

from mossvl.errors import OptionError

COMPUTED = (torch.bfloat16, torch.float32, torch.float16)
"""Dtypes that models compute in; on a CPU also float64."""


def computed_dtype(given: Any, cpu: bool = True) -> torch.dtype:
    """Return the dtype to compute in, given as a dtype or its name.

    Raises:
        OptionError: the value is no dtype, or models do not compute in it.
    """
    dtype = getattr(torch, given.removeprefix("torch."), None) if isinstance(given, str) else given
    if not isinstance(dtype, torch.dtype) or dtype not in (*COMPUTED, *[torch.float64] * cpu):
        names = [str(one).removeprefix("torch.") for one in COMPUTED]
        told = given if isinstance(given, str) else str(given).removeprefix("torch.")
        raise OptionError(
            f"{{dtype=}} is no type that models compute in; give {names[0]!r}, {names[1]!r} or {names[2]!r}",
            given={"dtype": told},
        )
    return dtype


def check_stored_dtype(name: str, given: Any) -> None:
    """Refuse a configuration's dtype that is not floating-point; None is allowed.

    Raises:
        ValueError: the value is neither a floating-point dtype, nor the name of one, nor None.
    """
    dtype = getattr(torch, given, None) if isinstance(given, str) else given
    if given is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        told = dtype if isinstance(dtype, torch.dtype) else given
        raise ValueError(
            f"{name} {told!r:.80} is not a floating-point type; expected 'bfloat16', 'float32' or 'float16'"
        )


def check_dtypes(asked: Any, stored: Any = None) -> None:
    """Refuse a `dtype` of `from_pretrained` that models do not compute in.

    Args:
        asked: a dtype, its name, or a dict of these by part of the model; None or "auto" for the configuration's.
        stored: the configuration's dtype, if known.

    Raises:
        OptionError: a value is no dtype, or models do not compute in it.
    """
    for one in asked.values() if isinstance(asked, dict) else [asked]:
        if one is None or (isinstance(one, str) and one == "auto"):
            one = stored
        if one is not None:
            computed_dtype(one)
