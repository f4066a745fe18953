"""Options of sampling that requests of every API may have, by the names of OpenAI's chat API."""

from typing import Annotated, Any

from pydantic import Field

from mossvl.server.schemas.body import Body

StopString = Annotated[str, Field(min_length=1, max_length=256)]
StopStrings = StopString | Annotated[list[StopString], Field(max_length=16)]


class SamplingFields(Body):
    """How an answer is sampled; in an API that has no such field, these are extensions."""

    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, is greedy decoding.")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0)
    logit_bias: Annotated[dict[str, float], Field(max_length=1000)] | None = Field(
        None, description="Added to logits, by token id."
    )
    stop_token_ids: list[int] | None = Field(None, max_length=1000)
    min_tokens: int | None = Field(None, ge=0, description="Tokens before which nothing ends the answer.")
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    priority: int | None = Field(None, description="The lowest number is admitted first.")
    cache_salt: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        None, description="The prefix cache serves only requests of the same salt."
    )
    timeout: float | None = Field(None, gt=0, description="Seconds.")


class StreamOptions(Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = Field(None, description="With include_usage: token counts in every chunk.")
    include_obfuscation: Any = None  # Ignored.

    @property
    def continuous(self) -> bool:
        """Whether every chunk of a stream has token counts."""
        return bool(self.include_usage and self.continuous_usage_stats)
