"""The chat template of a checkpoint: a program of others, which makes a prompt of messages."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Template
from jinja2.meta import find_undeclared_variables

from mossvl.errors import CheckpointError, PromptError
from mossvl.processing.bounded_jinja import Bounded, Refusal, Spent

LONGEST = 2**18
"""Characters of a template."""


def render_chat(source: Any, messages: Sequence[Mapping[str, Any]], /, **names: Any) -> str:
    """Messages as a chat template writes them.

    Args:
        source: the template.
        names: what it knows beside the messages, under transformers' names.

    Raises:
        CheckpointError: the template is broken, or needs more than messages of this length may need.
        PromptError: it refuses these messages.
    """
    _check_text(source)
    try:
        template = compiled(source)
        template.environment.begin(messages)  # type: ignore[attr-defined]
        return template.render(messages=messages, **names)
    except Refusal as error:
        raise PromptError(f"the checkpoint's chat template refuses these messages: {error.message!s:.300}") from error
    except Spent as error:
        raise CheckpointError(
            "the chat template does not end, or makes far more text than it is given; get the checkpoint's file again"
        ) from error
    except Exception as error:  # Anything may go wrong in a program.
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"the chat template fails: {type(error).__name__}: {reason}") from error


@lru_cache(16)
def variables_of(source: Any) -> frozenset[str]:
    """Names that a template asks for.

    Raises:
        CheckpointError: it is no template.
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
    """Refuse a template that fails of what every conversation has.

    Raises:
        CheckpointError: it does.
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
            if messages is not turns:  # not every model has system prompts
                raise CheckpointError(str(error)) from error
