"""Parts of the model: what to train, what to freeze, and which modules get adapters."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from torch import nn

from mossvl.errors import OptionError
from mossvl.model.configuration import MossVLConfig
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.quantization.linear import QuantizedLinear
from mossvl.training.options import Part

if TYPE_CHECKING:
    from peft import LoraConfig

TEXT = "model.language_model."


def part_of(name: str, config: MossVLConfig) -> Part:
    """The part of a module or a parameter, by its name.

    The separator token belongs to the merger, the final norm to the head; norms, gates and MLP belong to their layer.
    """
    if name.startswith(("model.visual.merger", "model.separator_token")):
        return Part.MERGER
    if name.startswith("model.visual."):
        return Part.VISION
    if name.startswith(f"{TEXT}embed_tokens"):
        return Part.EMBEDDINGS
    if name.startswith(f"{TEXT}layers."):
        index = int(name.removeprefix(f"{TEXT}layers.").split(".")[0])
        return Part.CROSS_ATTENTION if index in config.text_config.cross_attention_layers else Part.SELF_ATTENTION
    return Part.LM_HEAD


def train_only(model: MossVLLMHeadModel, parts: Collection[Part]) -> None:
    """Freeze all parameters but those of these parts. If the head is tied to the embeddings, each part implies both."""
    if model.config.tie_word_embeddings and {Part.EMBEDDINGS, Part.LM_HEAD} & set(parts):
        parts = {*parts, Part.EMBEDDINGS, Part.LM_HEAD}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name, model.config) in parts)


def lora(model: MossVLLMHeadModel, parts: Collection[Part], rank: int, alpha: int, dropout: float) -> "LoraConfig":
    """Configure adapters: all linear layers of these parts are target modules.

    Embeddings and head, for which low ranks work badly, are trained whole, and stay tied if they are.

    Raises:
        OptionError: `parts` has no part with linear layers, or the head, which is quantized.
    """
    from peft import LoraConfig

    if Part.LM_HEAD in parts and isinstance(model.lm_head, QuantizedLinear):
        raise OptionError(f"{Part.LM_HEAD} is trained whole, but it is quantized here; leave the part out")

    inner = set(parts) - {Part.EMBEDDINGS, Part.LM_HEAD}
    if not inner:
        raise OptionError(f"{', '.join(parts)} alone: adapters need a part with layers; to train just this, use --full")
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and part_of(name, model.config) in inner
    ]
    whole = [name for name, part in (("embed_tokens", Part.EMBEDDINGS), ("lm_head", Part.LM_HEAD)) if part in parts]
    tied = model.config.tie_word_embeddings and bool(whole)
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        modules_to_save=["embed_tokens"] if tied else whole or None,
        ensure_weight_tying=tied,
    )
