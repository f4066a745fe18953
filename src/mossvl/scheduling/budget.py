"""How much of what a step does: bounds for how long one takes, and so for how long everybody waits for the next."""

import math
from dataclasses import dataclass

from mossvl.options.engine import EngineConfig

GPU_TOKENS, GPU_PATCHES = 4096, 57_344
LARGE_PATCHES = 14_336
"""A frame that is more work than this is encoded in parts; on a CPU, than `LARGE` times a step's patches, if fewer."""
LARGE = 8
"""As `LARGE_PATCHES`, in multiples of `mixed_patches`."""
MARGIN = 0.9
"""Share of the longest gap that steps are planned for: their times vary."""
LEAST = 0.25
"""Time that prompts get in a step at least, as a share of the time that its decoding takes."""


@dataclass(frozen=True)
class StepBudget:
    """Bounds of a step.

    Attributes:
        tokens, patches: most prompt tokens that are computed, and most patches of frames that are encoded.
        mixed_tokens, mixed_patches: the same beside requests that are decoding; None: as many as `gap` leaves time for.
        gap: seconds that a step with decoding requests is to take at most.
        even: patches of a frame whose attention is as much work as all else that is computed of them.
    """

    tokens: int = GPU_TOKENS
    patches: int = GPU_PATCHES
    mixed_tokens: int | None = None
    mixed_patches: int | None = None
    gap: float = EngineConfig.max_token_gap
    even: float = math.inf

    @classmethod
    def of(
        cls, config: EngineConfig, tokens: int = GPU_TOKENS, patches: int = GPU_PATCHES, even: float = math.inf
    ) -> "StepBudget":
        """Return the budget of the settings; where they leave it open, with `tokens` and `patches`."""
        tokens, patches = config.prefill_tokens or tokens, config.vision_patches or patches
        mixed_tokens, mixed_patches = config.mixed_prefill_tokens, config.mixed_vision_patches
        return cls(
            tokens,
            patches,
            mixed_tokens and min(mixed_tokens, tokens),
            mixed_patches and min(mixed_patches, patches),
            config.max_token_gap,
            even,
        )

    def work(self, patches: int) -> float:
        """Return the work of encoding a frame, in patches of small frames; attention makes it quadratic."""
        return patches * (1 + patches / self.even)

    def is_large(self, patches: int) -> bool:
        """Return whether a frame is encoded in parts."""
        most = min(LARGE_PATCHES, LARGE * self.patches) if self.mixed_patches is None else LARGE * self.mixed_patches
        return self.work(patches) > most

    def left(self, decoding: float) -> float:
        """Return the seconds that prompts get in a step whose decoding takes so many seconds; none is 0."""
        return max(MARGIN * self.gap - decoding, LEAST * decoding)
