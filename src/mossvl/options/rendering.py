"""How the chat template renders a conversation: options of a query."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Self

from mossvl.errors import OptionError, shown
from mossvl.options.checks import Switch, check_options, mapping, named_options

OF_PROMPT = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")
"""Variables of the chat template that `chat_template_kwargs` cannot set."""


def _variables(name: str, given: Any) -> dict[str, Any]:
    """Return the variables by name, without those that are None."""
    for variable in mapping(name, given):
        if not isinstance(variable, str) or not variable.isidentifier() or variable in OF_PROMPT:
            advice = "; give it beside them" if variable in OF_PROMPT[3:] else ""
            raise OptionError(f"{{{name}}}: {shown(variable, 40)} cannot be set there{advice}", option=name)
    return {variable: value for variable, value in given.items() if value is not None}


@named_options("option of the chat template")
@dataclass(frozen=True)
class Rendering:
    """How a conversation becomes a prompt.

    Attributes:
        add_generation_prompt: end the prompt with the beginning of an assistant's turn; None for yes, unless
            `continue_final_message`.
        continue_final_message: the prompt ends with the text of the last message, which the answer continues.
        chat_template_kwargs: values of the chat template's own variables, by name.
    """

    add_generation_prompt: Switch | None = None
    continue_final_message: Switch = False
    chat_template_kwargs: Annotated[Mapping[str, Any], _variables] | None = None

    def __post_init__(self) -> None:
        check_options(self)
        if self.add_generation_prompt and self.continue_final_message:
            raise OptionError(
                "{continue_final_message} and {add_generation_prompt} exclude each other; give one of them",
                given={"continue_final_message": True, "add_generation_prompt": True},
            )

    @property
    def answer_follows(self) -> bool:
        """Whether an assistant's turn begins at the end of the prompt."""
        return not self.continue_final_message if self.add_generation_prompt is None else self.add_generation_prompt

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Return the options among the keys of a query, none of them None; other keys are ignored."""
        return cls(**{option.name: given[option.name] for option in fields(cls) if option.name in given})
