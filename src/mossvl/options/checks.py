"""Checks of options. Every error says what was given and what was expected."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, wraps
from numbers import Real
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from mossvl.errors import OptionError
from mossvl.names import nearest

T = TypeVar("T")


def present(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping without null values: exported tables give every row every key."""
    return {name: value for name, value in given.items() if value is not None}


def check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise an `OptionError` for the first unknown name, with the nearest known name or all known names."""
    known = sorted(known)
    for name in given:
        if name not in known:
            raise OptionError(f"unknown {what} {name!r:.200}; {hint(name, known)}")


def hint(name: Any, known: Sequence[str]) -> str:
    """Return advice about an unknown name: the nearest known one, or all."""
    if near := nearest(str(name), known):
        return f"did you mean {near!r}?"
    return f"known: {', '.join(known)}" if known else "there is none; leave it out"


def named_options(what: str) -> Callable[[type[T]], type[T]]:
    """Decorator of dataclasses: an unknown argument raises an `OptionError` that names the nearest known one."""

    def decorate(cls: type[T]) -> type[T]:
        init = cls.__init__

        @wraps(init)
        def checked(self: T, *given: Any, **named: Any) -> None:
            check_names(named, (option.name for option in fields(cls)), what)  # type: ignore[arg-type]
            init(self, *given, **named)

        cls.__init__ = checked  # type: ignore[method-assign, assignment]
        return cls

    return decorate


def number(
    name: str,
    value: Any,
    above: float = -math.inf,
    most: float = math.inf,
    least: float = -math.inf,
    below: float = math.inf,
) -> float:
    """Return `value` as a finite number within the bounds, or raise an `OptionError`.

    Args:
        above, below: exclusive bounds.
        least, most: inclusive bounds.
    """
    try:
        checked = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:
        checked = math.inf
    if not math.isfinite(checked):
        kind = "a number, not a text" if isinstance(value, str) else "a finite number"
        raise OptionError(f"{{{name}=}} must be {kind}", given={name: value})
    if not (above < checked < below and least <= checked <= most):
        bounds = {"more than": above, "at least": least, "less than": below, "at most": most}
        told = " and ".join(f"{words} {bound:g}" for words, bound in bounds.items() if math.isfinite(bound))
        raise OptionError(f"{{{name}=}} must be {told}", given={name: value})
    return checked


def whole(name: str, value: Any, least: float = 1, most: float = math.inf) -> int:
    """Return `value` as an integer from `least` to `most`, or raise an `OptionError`."""
    if number(name, value) % 1:
        raise OptionError(f"{{{name}=}} must be a whole number", given={name: value})
    if value < least or value > most:
        raise OptionError(
            f"{{{name}=}} must be " + (f"at least {least}" if value < least else f"at most {most}"), given={name: value}
        )
    return int(value)


def switch(name: str, value: Any) -> bool:
    """Return `value` if it is true or false, or raise an `OptionError`."""
    if not isinstance(value, bool):
        raise OptionError(f"{{{name}=}} must be true or false", given={name: value})
    return value


def text(name: str, value: Any) -> str:
    """Return `value` if it is a text, or raise an `OptionError`."""
    if not isinstance(value, str):
        raise OptionError(f"{{{name}=}} must be a text", given={name: value})
    return value


def choice(name: str, value: Any, known: Sequence[str]) -> str:
    """Return `value` if it is one of `known`, or raise an `OptionError`."""
    if value not in known:
        raise OptionError(f"{{{name}=}} must be {' or '.join(map(repr, known))}", given={name: value})
    return str(value)


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Return `value` if it is a mapping, or raise an `OptionError`."""
    if not isinstance(value, Mapping):
        raise OptionError(f"{{{name}=}} must be a dict of options", given={name: value})
    return value


def pick(given: T | None, default: T) -> T:
    """Return `given`, or the default if `given` is None."""
    return default if given is None else given


# --- checks in the annotations of fields ---------------------------------------------------------------------------


Check = Callable[[str, Any], Any]
"""Takes the name and value of an option; returns the value to store, or raises an `OptionError`."""


@dataclass(frozen=True)
class Number:
    """See `number`."""

    above: float = -math.inf
    most: float = math.inf
    least: float = -math.inf
    below: float = math.inf

    def __call__(self, name: str, value: Any) -> float:
        return number(name, value, self.above, self.most, self.least, self.below)


@dataclass(frozen=True)
class Whole:
    """See `whole`."""

    least: float = 1
    most: float = math.inf

    def __call__(self, name: str, value: Any) -> int:
        return whole(name, value, self.least, self.most)


@dataclass(frozen=True)
class Choice:
    """See `choice`."""

    known: tuple[str, ...]

    def __call__(self, name: str, value: Any) -> str:
        return choice(name, value, self.known)


Switch = Annotated[bool, switch]
Count = Annotated[int, Whole()]
CountFrom0 = Annotated[int, Whole(0)]
Positive = Annotated[float, Number(above=0)]


def check_options(options: Any) -> None:
    """Check the fields of a dataclass whose types have a check (such as `Count`), and store the checked values.

    None passes where a field's type allows it.
    """
    check_each(options, checks_of(type(options)))  # type: ignore[arg-type]  # A class can be hashed.


def check_each(options: Any, checks: Mapping[str, Check], part: str = "") -> None:
    """Check attributes by name, and store the checked values; messages have `part` before the name."""
    for name, check in checks.items():
        given = getattr(options, name)
        try:
            kept = check(f"{part}{name}", given)
        except OptionError as error:
            error.option, error.owner = name, type(options).__name__
            raise
        if kept is not given:
            object.__setattr__(options, name, kept)


@cache
def checks_of(cls: type) -> dict[str, Check]:
    """Return the checks of a dataclass's fields, by name."""
    found: dict[str, Check] = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        for kind in kinds:
            if get_origin(kind) is Annotated:
                (check,) = kind.__metadata__
                found[name] = _unless_none(check) if NoneType in kinds else check
    return found


def _unless_none(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)
