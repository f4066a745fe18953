"""Flags of the command line that stand for the options of a dataclass, and their names in errors."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, ClassVar, get_type_hints

import typer
from typer.models import OptionInfo

from mossvl.errors import MossVLError


@dataclass(frozen=True)
class Checked:
    """In a parameter's annotation: a check of its value, or of each of its values, before the command begins.

    Attributes:
        check: raises a `MossVLError`.
    """

    check: Callable[[Any], object]


@dataclass(frozen=True)
class Flag:
    """A flag of the command line.

    Attributes:
        names: by default one, made of the option's name.
        kind: type of the value; by default the option's. A list makes the flag repeatable.
        checked: of its value, before the command begins.
    """

    help: str
    names: tuple[str, ...] = ()
    kind: Any = None
    checked: Checked | None = None


class Flags(dict[str, Any]):
    """The options of a dataclass that a command was given as flags, by name.

    Attributes:
        options: the dataclass.
        panel: heading of the flags in a command's help.
        flags: the flags, by option name.
    """

    options: ClassVar[type]
    panel: ClassVar[str]
    flags: ClassVar[dict[str, Flag]]


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator of a command: expand each parameter whose type is a subclass of `Flags` into that class's flags.

    Options in the errors that the command raises are named as its flags.
    """
    plain: list[inspect.Parameter] = []
    expanded: dict[str, tuple[type[Flags], dict[str, str]]] = {}
    for parameter in inspect.signature(command).parameters.values():
        group = parameter.annotation
        if not (isinstance(group, type) and issubclass(group, Flags)):
            plain.append(parameter)
            continue
        hints = get_type_hints(group.options)
        known = {option.name: option for option in fields(group.options)}
        options = [known[name] for name in group.flags]
        flags = {f"{parameter.name}_{option.name}": option.name for option in options}
        expanded[parameter.name] = group, flags
        for name, option in zip(flags, options, strict=True):
            annotation = _flag(option, hints[option.name], group.flags[option.name], group.panel)
            plain.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))

    names = _names_of(plain, [group for group, _ in expanded.values()])

    def flagged(**given: Any) -> None:
        try:
            check_values(plain, given)
            command(**grouped(given))
        except MossVLError as error:
            error.names = names
            raise

    def grouped(given: dict[str, Any]) -> dict[str, Any]:
        for parameter, (group, flags) in expanded.items():
            values = {option: given.pop(name) for name, option in flags.items()}
            given[parameter] = group({option: value for option, value in values.items() if value not in (None, [])})
        return given

    plain = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in plain]
    flagged.__name__, flagged.__doc__ = command.__name__, command.__doc__
    flagged.__annotations__ = {parameter.name: parameter.annotation for parameter in plain}
    flagged.__signature__ = inspect.Signature(plain)  # type: ignore[attr-defined]
    return flagged


def check_values(parameters: Iterable[inspect.Parameter], given: Mapping[str, Any]) -> None:
    """Check the values of parameters that are `Checked`.

    Raises:
        MossVLError: what a check raises.
    """
    for parameter in parameters:
        value = given[parameter.name]
        for one in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(one, Checked) and value is not None:
                for each in value if isinstance(value, list) else [value]:
                    one.check(each)


def _names_of(parameters: list[inspect.Parameter], groups: list[type[Flags]]) -> dict[str, str]:
    """Return the flags of a command by their options' names: {"memory": "--memory", "EngineConfig.memory": …}."""
    qualified = flags_of(*groups)
    own = {parameter.name: flag for parameter in parameters if (flag := flag_of(parameter)) is not None}
    return {name.partition(".")[2]: flag for name, flag in reversed(qualified.items())} | own | qualified


def flag_of(parameter: inspect.Parameter) -> str | None:
    """Return the flag of a command's parameter; None if the parameter is an argument."""
    for info in getattr(parameter.annotation, "__metadata__", ()):
        if isinstance(info, OptionInfo):
            # What typer calls the default is the first name, as defaults are the parameters' own.
            return info.default if isinstance(info.default, str) else f"--{parameter.name.replace('_', '-')}"
    return None


def flags_of(*groups: type[Flags]) -> dict[str, str]:
    """Return the flag of each setting that an error may name: {"MediaLimits.timeout": "--media-timeout"}."""
    return {
        f"{group.options.__name__}.{name}": _names(name, flag)[0]
        for group in groups
        for name, flag in group.flags.items()
    }


def _names(option: str, flag: Flag) -> tuple[str, ...]:
    return flag.names or (f"--{option.replace('_', '-')}",)


def _flag(option: "Field[Any]", hint: Any, flag: Flag, panel: str) -> Any:
    """Return typer's annotation of a flag; the value of a flag that is not given is None."""
    kind = hint if flag.kind is None else flag.kind
    names = _names(option.name, flag)
    default = None if option.default is MISSING else option.default
    shown = f" Default: {default:.12g}." if isinstance(default, int | float) and not isinstance(default, bool) else ""
    info = typer.Option(*names, help=flag.help + shown, rich_help_panel=panel, show_default=False)
    return Annotated[kind | None, info, flag.checked] if flag.checked else Annotated[kind | None, info]
