"""Options of sampling that requests of every API may have, by the names of OpenAI's chat API."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

StopText = Annotated[str, Field(min_length=1, max_length=256)]
StopTexts = StopText | Annotated[list[StopText], Field(max_length=16)]


class SamplingFields(BaseModel):
    """How an answer is sampled; in an API that has no such field, these are extensions."""

    model_config = ConfigDict(extra="forbid")

    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, is greedy decoding.")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0)
    stop_token_ids: list[int] | None = Field(None, max_length=1000)
    ignore_eos: bool | None = None
    timeout: float | None = Field(None, gt=0, description="Seconds.")


class StreamOptions(BaseModel):
    include_usage: bool | None = None
    include_obfuscation: Any = None  # Ignored.
