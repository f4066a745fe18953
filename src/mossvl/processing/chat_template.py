"""The chat template of a checkpoint: an untrusted Jinja program that renders messages as a prompt."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Template
from jinja2.meta import find_undeclared_variables

from mossvl.errors import CheckpointError, PromptError
from mossvl.processing.bounded_jinja import Bounded, BudgetExceeded, Refusal

LONGEST = 2**18
"""Most characters of a template."""


def render_chat(source: Any, messages: Sequence[Mapping[str, Any]], /, **names: Any) -> str:
    """Render messages with a chat template.

    Args:
        source: the template.
        names: the template's other variables, under transformers' names.

    Raises:
        CheckpointError: the template is broken, or exceeds the budget for messages of this length.
        PromptError: the template refuses these messages (`raise_exception`).
    """
    _check_text(source)
    try:
        template = compiled(source)
        template.environment.begin([*messages, *(names.get("tools") or ())])  # type: ignore[attr-defined]
        return template.render(messages=messages, **names)
    except Refusal as error:
        raise PromptError(f"the checkpoint's chat template refuses these messages: {error.message!s:.300}") from error
    except BudgetExceeded as error:
        raise CheckpointError(
            "the chat template does not end, or makes far more text than its input; get the checkpoint's file again"
        ) from error
    except Exception as error:  # A template may raise anything.
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"the chat template fails: {type(error).__name__}: {reason}") from error


@lru_cache(16)
def variables_of(source: Any) -> frozenset[str]:
    """Names of the variables that a template reads.

    Raises:
        CheckpointError: the source is not a valid template.
    """
    _check_text(source)
    try:
        return frozenset(find_undeclared_variables(Bounded().parse(source)))
    except Exception as error:
        raise CheckpointError(f"the chat template is broken: {' '.join(str(error).split())[:300]}") from error


@lru_cache(16)
def compiled(source: str) -> Template:
    return Bounded().from_string(source)


def _check_text(source: Any) -> None:
    if not isinstance(source, str) or len(source) > LONGEST:
        raise CheckpointError(
            f"the chat template must be a text of at most {LONGEST} characters, but is {source!r:.80}"
        )


def check_template(source: Any) -> None:
    """Render typical conversations, so that a broken template fails when its checkpoint is loaded.

    Raises:
        CheckpointError: the template fails.
    """
    question: dict[str, Any] = {"role": "user", "content": "What is it?"}
    parts: dict[str, Any] = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "What is it?"}],
    }
    turns = [{"role": "system", "content": "Be brief."}, parts, {"role": "assistant", "content": "A cat."}, question]
    for messages in ([question], [parts], turns):
        try:
            render_chat(source, messages, add_generation_prompt=True)
        except PromptError as error:
            if messages is not turns:  # A template may refuse system prompts.
                raise CheckpointError(str(error)) from error
