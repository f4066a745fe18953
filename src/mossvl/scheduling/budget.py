"""How much of what a step does: bounds for how long one takes, and so for how long everybody waits for the next."""

import math
from dataclasses import dataclass

from mossvl.options.engine import EngineConfig

GPU_TOKENS, GPU_PATCHES = 4096, 57_344
LARGE = 8
"""A frame that is so many times the work of `mixed_patches` is encoded in parts."""


@dataclass(frozen=True)
class StepBudget:
    """Bounds of a step.

    Attributes:
        tokens, patches: most prompt tokens that are computed, and most patches of frames that are encoded.
        mixed_tokens, mixed_patches: the same beside requests that are generating.
        even: patches of a frame whose attention is as much work as all else that is computed of them.
    """

    tokens: int = GPU_TOKENS
    patches: int = GPU_PATCHES
    mixed_tokens: int = EngineConfig.mixed_prefill_tokens
    mixed_patches: int = EngineConfig.mixed_vision_patches
    even: float = math.inf

    @classmethod
    def of(
        cls, config: EngineConfig, tokens: int = GPU_TOKENS, patches: int = GPU_PATCHES, even: float = math.inf
    ) -> "StepBudget":
        """Return the budget of the settings; where they leave it open, with `tokens` and `patches`."""
        tokens, patches = config.prefill_tokens or tokens, config.vision_patches or patches
        mixed = min(config.mixed_prefill_tokens, tokens), min(config.mixed_vision_patches, patches)
        return cls(tokens, patches, *mixed, even)

    def work(self, patches: int) -> float:
        """Return the work of encoding a frame, in patches of small frames; attention makes it quadratic."""
        return patches * (1 + patches / self.even)

    def is_large(self, patches: int) -> bool:
        """Return whether a frame is encoded in parts."""
        return self.work(patches) > LARGE * self.mixed_patches
