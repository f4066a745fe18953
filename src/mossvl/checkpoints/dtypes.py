"""The types that models compute in."""

from typing import Any

import torch

from mossvl.errors import OptionError

COMPUTED = (torch.bfloat16, torch.float32, torch.float16)
"""Types that models compute in; on a CPU, float64 is one, too."""


def computed_dtype(given: Any, cpu: bool = True) -> torch.dtype:
    """The type to compute in, given as one or by its name.

    Raises:
        OptionError: it is none, or nothing can be computed in it.
    """
    dtype = getattr(torch, given.removeprefix("torch."), None) if isinstance(given, str) else given
    if not isinstance(dtype, torch.dtype) or dtype not in (*COMPUTED, *[torch.float64] * cpu):
        names = [str(one).removeprefix("torch.") for one in COMPUTED]
        told = given if isinstance(given, str) else str(given).removeprefix("torch.")
        raise OptionError(
            f"dtype={told!r:.80} is no type that models compute in; give {names[0]!r}, {names[1]!r} or {names[2]!r}"
        )
    return dtype


def check_stored_dtype(name: str, given: Any) -> None:
    """Refuse what a configuration may not say of the type of its weights: it names a floating-point type, or none.

    Raises:
        ValueError: it is no such name.
    """
    dtype = getattr(torch, given, None) if isinstance(given, str) else given
    if given is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        told = dtype if isinstance(dtype, torch.dtype) else given
        raise ValueError(
            f"{name} {told!r:.80} is not a floating-point type; expected 'bfloat16', 'float32' or 'float16'"
        )


def check_dtypes(asked: Any, stored: Any = None) -> None:
    """Refuse a `dtype` of `from_pretrained` that nothing can be computed in.

    Args:
        asked: a type, its name, a dict of these by part of the model; or None or "auto" for that of the configuration.
        stored: that one, if it is known.

    Raises:
        OptionError: it is none, or nothing can be computed in it.
    """
    for one in asked.values() if isinstance(asked, dict) else [asked]:
        if one is None or (isinstance(one, str) and one == "auto"):
            one = stored
        if one is not None:
            computed_dtype(one)
