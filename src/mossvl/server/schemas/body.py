"""What all objects of requests have in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from mossvl.options.checks import present


class Body(BaseModel):
    """An object in which unknown keys are errors, and keys with null are absent."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return present(given) if isinstance(given, dict) else given
