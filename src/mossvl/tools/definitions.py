"""Functions that an answer may call, and whether it must."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from mossvl.errors import OptionError, shown
from mossvl.names import nearest
from mossvl.options.checks import switch

MOST_FUNCTIONS = 128
NAME = re.compile(r"[\w.:/-]{1,128}", re.ASCII)
DEEPEST = 64
"""Levels of nesting of a schema, or of a call's arguments."""
CHOICES = ("none", "auto", "required")


@dataclass(frozen=True)
class Function:
    """A function that an answer may call.

    Attributes:
        parameters: JSON schema of an object: the arguments by name. None for a function without arguments.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None

    @property
    def definition(self) -> dict[str, Any]:
        """The function as chat templates take it."""
        told = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": {name: one for name, one in told.items() if one is not None}}

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the arguments."""
        return {"type": "object", **(self.parameters or {"properties": {}})}

    @classmethod
    def of(cls, given: Any, place: str) -> Self:
        """Check a definition: {"type": "function", "function": {"name": …}}, or the inner dict alone.

        Args:
            place: its name in errors.

        Raises:
            OptionError: the definition has no valid name, or its parameters are no schema of an object.
        """
        inner = given.get("function", given) if isinstance(given, Mapping) else None
        if not isinstance(inner, Mapping) or given.get("type", "function") != "function":
            raise OptionError(
                f'{{{place}=}} must be {{"type": "function", "function": {{"name": …}}}}',
                option="tools",
                given={place: given},
            )
        name, description, parameters = (inner.get(key) for key in ("name", "description", "parameters"))
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise OptionError(
                f"{{{place}}}: name={shown(name)} must be 1 to 128 letters, digits and any of _ . : / -",
                given={place: given},
                option="tools",
            )
        if not isinstance(description, str | None):
            raise OptionError(
                f"{{{place}}}: description={shown(description)} must be a text", given={place: given}, option="tools"
            )
        if not isinstance(parameters, Mapping | None) or (parameters or {}).get("type", "object") != "object":
            raise OptionError(
                f'{{{place}}}: the parameters of {name!r} must be a JSON schema of an object, {{"type": "object", '
                f'"properties": …}}, but are {shown(parameters)}',
                given={place: given},
                option="tools",
            )
        if is_deep(parameters):
            raise OptionError(
                f"{{{place}}}: the parameters of {name!r} are nested too deeply; at most {DEEPEST} levels",
                given={place: given},
                option="tools",
            )
        if not is_finite(parameters):
            raise OptionError(
                f"{{{place}}}: the parameters of {name!r} have NaN or an infinite number, which JSON does not know",
                given={place: given},
                option="tools",
            )
        return cls(name, description, parameters or None)


@dataclass(frozen=True)
class Tools:
    """The functions that one answer may call.

    Attributes:
        forced: the answer is a call (or several), and no text.
        parallel: the answer may have several calls.
    """

    functions: tuple[Function, ...]
    forced: bool = False
    parallel: bool = True

    @property
    def definitions(self) -> list[dict[str, Any]]:
        return [function.definition for function in self.functions]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(function.name for function in self.functions)

    @property
    def ending(self) -> frozenset[str]:
        """Functions of which one call ends the answer; a forced call ends by its grammar."""
        return frozenset() if self.parallel or self.forced else self.names

    @classmethod
    def of(cls, tools: Any, choice: Any = None, parallel: Any = None) -> Self | None:
        """Check `tools`, `tool_choice` and `parallel_tool_calls` in OpenAI's form.

        Returns:
            None if no function may be called.

        Raises:
            OptionError: a definition or the choice is invalid, a name is there twice, or the choice names a function
                that is not defined.
        """
        if not isinstance(tools, list | tuple | None):
            raise OptionError("{tools=} must be a list of functions", given={"tools": tools})
        if len(tools or ()) > MOST_FUNCTIONS:
            raise OptionError(
                f"{{tools}} has {len(tools or ())} functions; at most {MOST_FUNCTIONS} are allowed", option="tools"
            )
        functions = {one.name: one for place, given in enumerate(tools or ()) for one in [_at(place, given)]}
        if len(functions) < len(tools or ()):
            names = [_at(place, given).name for place, given in enumerate(tools or ())]
            twice = next(name for name in names if names.count(name) > 1)
            raise OptionError(
                f"{{tools}}: the function {twice!r} is defined twice; give each a name of its own", option="tools"
            )
        several = True if parallel is None else switch("parallel_tool_calls", parallel)
        mode, allowed = _chosen(choice)
        if mode == "none" or (not functions and mode == "auto" and not allowed):
            return None
        if not functions:
            raise OptionError("{tool_choice=} needs tools, but there are none", given={"tool_choice": choice})
        for name in allowed or ():
            if name not in functions:
                near = nearest(name, list(functions))
                hint = f"did you mean {near!r}?" if near else f"defined: {', '.join(functions)}"
                raise OptionError(f"{{tool_choice}}: there is no function {name!r:.200}; {hint}", option="tool_choice")
        chosen = tuple(one for name, one in functions.items() if allowed is None or name in allowed)
        return cls(chosen, mode != "auto", several and mode != "named")


def _at(place: int, given: Any) -> Function:
    return Function.of(given, f"tools[{place}]")


def _chosen(choice: Any) -> tuple[str, Sequence[str] | None]:
    """Return "none", "auto", "required" or "named", and the names of the allowed functions (None for all)."""
    match choice:
        case None:
            return "auto", None
        case "none" | "auto" | "required":
            return choice, None
        case {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            return "named", [name]
        case {"type": "allowed_tools"}:
            inner = choice.get("allowed_tools", choice)
            match inner:
                case {"mode": "auto" | "required" as mode, "tools": [_, *_] as tools}:
                    return mode, [_name(one) for one in tools]
    raise OptionError(
        f"{{tool_choice=}} must be {', '.join(map(repr, CHOICES))}, "
        '{"type": "function", "function": {"name": …}} or {"type": "allowed_tools", "allowed_tools": '
        '{"mode": "auto" or "required", "tools": […]}}',
        given={"tool_choice": choice},
    )


def _name(given: Any) -> str:
    """The name of a function in a list of allowed tools."""
    match given:
        case {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            return name
    raise OptionError(
        f'{{tool_choice}}: {shown(given)} must be {{"type": "function", "function": {{"name": …}}}}',
        option="tool_choice",
    )


# --- values of JSON --------------------------------------------------------------------------------------------------


def is_deep(value: Any, most: int = DEEPEST) -> bool:
    """Whether a value is nested more than `most` levels deep."""
    level = [value]
    for _ in range(most + 1):
        inner = [one.values() if isinstance(one, Mapping) else one for one in level if isinstance(one, Mapping | list)]
        level = [one for values in inner for one in values if isinstance(one, Mapping | list)]
        if not level:
            return False
    return True


def is_finite(value: Any) -> bool:
    """Whether all numbers in a value are those of JSON, which knows neither NaN nor infinity."""
    if isinstance(value, Mapping | list):
        return all(map(is_finite, value.values() if isinstance(value, Mapping) else value))
    return not isinstance(value, float) or math.isfinite(value)


def strings_of(value: Any) -> Iterator[str]:
    """The texts in a value of JSON, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from (name, *strings_of(one))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from strings_of(one)


def arguments_of(given: Any) -> Any:
    """A call's arguments as a dict: those given as JSON are parsed; what is no JSON object stays as it is."""
    if not isinstance(given, str):
        return given
    try:
        parsed = json.loads(given or "{}")
    except (ValueError, RecursionError):
        return given
    return parsed if isinstance(parsed, dict) and not is_deep(parsed) else given
