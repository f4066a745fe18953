"""Requests for completions of prompts."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, Field, Tag

from mossvl.server.schemas.parts import MANY
from mossvl.server.schemas.sampling import SamplingFields, StopStrings, StreamOptions
from mossvl.server.schemas.structured import StructuredFields

UNSUPPORTED = ("suffix", "best_of", "length_penalty", "use_beam_search", "prompt_embeds")
"""Keys that are refused unless they are empty, false or neutral (see `reading.NEUTRAL`)."""

Tokens = Annotated[list[Annotated[int, Field(ge=0, lt=2**31, strict=True)]], Field(min_length=1, fail_fast=True)]


KINDS = {list: "token_lists", str: "texts", int: "tokens"}
"""Forms of a prompt that is a list, by its first entry."""


def kind_of_prompt(given: Any) -> str | None:
    """Return which of the forms of a prompt is meant; None if it is no prompt."""
    if not isinstance(given, list):
        return "text"
    first = given[0] if given else ""
    return next((kind for of, kind in KINDS.items() if isinstance(first, of)), None)


Prompts = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], Field(min_length=1, max_length=MANY, fail_fast=True), Tag("texts")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[Tokens], Field(max_length=MANY, fail_fast=True), Tag("token_lists")],
    Discriminator(kind_of_prompt),
]


class CompletionRequest(SamplingFields, StructuredFields):
    """A request for completions."""

    OF_OTHERS: ClassVar[Mapping[str, str]] = {
        "input": "prompt",
        "messages": "prompt",
        "max_output_tokens": "max_tokens",
        "max_completion_tokens": "max_tokens",
        "stop_sequences": "stop",
        "text": "response_format",
        "output_config": "response_format",
    }

    prompt: Prompts = Field(description="A text, token ids, or a list of either; without a chat template.")
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, description="Answers to each prompt.")
    max_tokens: int | None = Field(None, ge=0, description="16 by default; 0 needs echo.")
    stop: StopStrings | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = Field(None, description="Answers begin with their prompt.")
    # Accepted and ignored.
    user: Any = None
    # Refused (see `UNSUPPORTED`).
    suffix: Any = None
    best_of: Any = None
    length_penalty: Any = None
    use_beam_search: Any = None
    prompt_embeds: Any = None
