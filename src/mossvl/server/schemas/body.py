"""What all objects of requests have in common."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from mossvl.options.checks import present


class Body(BaseModel):
    """An object in which unknown keys are errors, and keys with null are absent."""

    OF_OTHERS: ClassVar[Mapping[str, str]] = {}
    """Keys of other APIs that mean one of this object's, for messages: {theirs: ours}."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return present(given) if isinstance(given, dict) else given
