"""Methods that take the arguments of another method, stated once."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

R = TypeVar("R")


def extends(base: Callable[..., Any]) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Decorate a method that has keyword-only arguments: it takes the arguments of `base`, too, by position or keyword.

    Its signature, which transformers inspects, lists them. The method receives the given ones in its `**inputs`.
    """
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
