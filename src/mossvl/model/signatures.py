"""Arguments that several methods have in common, stated once."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

R = TypeVar("R")


def extends(base: Callable[..., Any]) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """A decorator of a method with named arguments of its own: it takes those of `base` as well, by place or by name,
    and says so in its signature, which transformers reads. The method finds them in its `**inputs`, as far as given."""
    this, *inputs = inspect.signature(base).parameters.values()
    names = [parameter.name for parameter in inputs]

    def decorate(method: Callable[..., R]) -> Callable[..., R]:
        signature = inspect.signature(method)
        own = [one for one in signature.parameters.values() if one.kind is inspect.Parameter.KEYWORD_ONLY]

        @functools.wraps(method)
        def extended(self: Any, *given: Any, **named: Any) -> R:
            return method(self, **dict(zip(names[: len(given)], given, strict=True)), **named)

        extended.__signature__ = signature.replace(parameters=[this, *inputs, *own])  # type: ignore[attr-defined]
        return extended

    return decorate
