"""What a model needs of a card: bytes of its weights in each quantization, and of what is beside them."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mossvl.cli.memory import kv_bytes
from mossvl.options.engine import ON_CPU, QUANTIZATIONS, EngineConfig

if TYPE_CHECKING:
    from mossvl.model.configuration import MossVLConfig
    from mossvl.quantization.schemes import Schemes

PLAIN = "bfloat16"
FRAMES, SIDE, TEXT_TOKENS = 64, 448, 2_048
"""A video that a card should have room for: frames of SIDE × SIDE pixels, and the tokens of its prompt and answer."""
WORKING_BYTES = 3 << 29
"""CUDA itself, and what is computed on the way."""
CARDS = (8, 12, 16, 24, 32, 40, 48, 80, 96, 141)
"""Memory of cards, in GB as vendors tell it."""
USABLE = 0.92
"""Fraction of that which a process gets, in GiB."""


@dataclass(frozen=True)
class Fit:
    """Attributes:
    weight_bytes: bytes of weights in memory.
    needed_bytes: bytes with a video of `FRAMES` frames, the vision cache and working memory.
    card_gb: the smallest of `CARDS` that has them; None if none has.
    """

    weight_bytes: int
    needed_bytes: int
    card_gb: int | None


def fits(config: "MossVLConfig", stored: "Schemes") -> dict[str, dict[str, Any]]:
    """Return the `Fit` of weights, by quantization: of the stored one if there is one, else of bfloat16 and all.

    Args:
        stored: the schemes of maps that the checkpoint has quantized.
    """
    from mossvl.quantization.schemes import main_kind, own_schemes

    kind = main_kind(stored.values())
    if kind is not None:
        return {kind: asdict(_fit(config, weight_bytes(config, lambda model: stored)))}
    made = {PLAIN: weight_bytes(config, lambda model: {})}
    for one in QUANTIZATIONS:
        if one != ON_CPU:
            made[one] = weight_bytes(config, lambda model, one=one: own_schemes(model, one))
    return {name: asdict(_fit(config, size)) for name, size in made.items()}


def weight_bytes(config: "MossVLConfig", schemes: Any) -> int:
    """Bytes of the weights of a model whose maps have `schemes(model)`, and whose other weights are of 16 bits."""
    import torch

    from mossvl.model.modeling import MossVLLMHeadModel
    from mossvl.offline.empty import cast
    from mossvl.quantization.schemes import replace

    with torch.device("meta"):
        model = MossVLLMHeadModel(config)
    replace(model, schemes(model))
    cast(model, torch.bfloat16)
    tensors = dict(model.state_dict())
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    return sum(tensor.nbytes for tensor in tensors.values())


def _fit(config: "MossVLConfig", weights: int) -> Fit:
    text, vision = kv_bytes(config.text_config)
    side = SIDE // (config.vision_config.patch_size * config.vision_config.spatial_merge_size)
    keys_values = FRAMES * (side**2 + 1) * vision + TEXT_TOKENS * text
    needed = weights + keys_values + EngineConfig.vision_cache + WORKING_BYTES
    return Fit(weights, needed, next((card for card in CARDS if needed <= USABLE * card * 2**30), None))
