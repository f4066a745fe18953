"""Settings of an engine: their names, defaults and limits."""

from dataclasses import dataclass

from mossvl.errors import OptionError
from mossvl.options.checks import Count, CountFrom0, Switch, check_options, named_options, number

GIB = 1 << 30
CPU_POOL_BYTES = 2 * GIB


@named_options("engine option")
@dataclass(frozen=True)
class EngineConfig:
    """What an engine may use, and how it works.

    Attributes:
        device, dtype: where and in what the model is loaded; see `mossvl.load`. Ignored for a model that is given.
        memory: for keys and values: up to 1, the part of the device's memory that weights and pages may fill together;
            above, bytes of pages. By default 0.88 of a GPU, and 2 GiB on a CPU.
        max_batch: most requests that are computed together; the others wait in order.
        page_size: tokens of a page; a power of two. Prompts are reused in blocks of so many tokens.
        prefill_tokens, vision_patches: most prompt tokens computed, and patches encoded, in one step. By default 4,096
            and 57,344 on a GPU, and on a CPU as many as it computes in about half a second, but 64 and 256 at least.
            A frame that is more work than eight times `mixed_vision_patches` is encoded in parts.
        mixed_prefill_tokens, mixed_vision_patches: the same, beside requests that are generating: they bound how long a
            prompt can hold up other answers' next tokens.
        prefix_cache: keep what was computed for requests that begin with the same tokens and pixels.
        vision_cache: bytes for encoded frames, kept for the same picture elsewhere; 0 keeps none.
        media_cache: clips whose frames' digests are remembered, so that a question about the same file need not decode
            it again; 0 remembers none.
        media_workers: requests whose media are loaded at the same time.
        media_bytes: decoded pixels that wait in memory.
        eager: no CUDA graphs.
    """

    device: str | None = None
    dtype: str | None = None
    memory: float | None = None
    max_batch: Count = 256
    page_size: Count = 32
    prefill_tokens: Count | None = None
    vision_patches: Count | None = None
    mixed_prefill_tokens: Count = 128
    mixed_vision_patches: Count = 1_792
    prefix_cache: Switch = True
    vision_cache: CountFrom0 = GIB
    media_cache: CountFrom0 = 1024
    media_workers: Count = 8
    media_bytes: Count = 2 * GIB
    eager: Switch = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.memory is not None:
            number("memory", self.memory, above=0)
        if self.page_size & (self.page_size - 1):
            raise OptionError(f"page_size={self.page_size} must be a power of two")
