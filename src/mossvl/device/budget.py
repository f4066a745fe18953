"""The step budget for a model on its device, and what steps cost there before any was measured."""

from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.model.vision import VisionTower
from mossvl.options.engine import EngineConfig
from mossvl.quantization.schemes import num_weights, stored_bytes
from mossvl.scheduling.budget import GPU_PATCHES, GPU_TOKENS, StepBudget
from mossvl.scheduling.costs import Costs, Work

CPU_FLOPS = 25e9
"""FLOPs of a step on a CPU: about half a second on a small machine."""
SPEEDS = {"cpu": (5e10, 1e10, 1e-3), "cuda": (4e14, 3e12, 1e-3)}
"""By device: FLOPs and bytes a second, and seconds that a step takes beside them; rough, as costs are learned."""
LEAST_TOKENS, LEAST_PATCHES = 64, 256
"""Minimum budget on a CPU: with fewer, most of the time goes into reading the weights."""


def budget_for(config: EngineConfig, model: MossVLLMHeadModel) -> StepBudget:
    """The budget from the settings; where they leave it open, one that fits the device of the weights."""
    weight = model.model.language_model.embed_tokens.weight
    even = even_patches(model.model.visual)
    if weight.device.type != "cpu":
        return StepBudget.of(config, even=even)
    tokens = int(CPU_FLOPS / (2 * num_weights(model.model.language_model.layers)))
    patches = int(CPU_FLOPS / (2 * num_weights(model.model.visual.blocks)))
    return StepBudget.of(
        config,
        min(GPU_TOKENS, max(LEAST_TOKENS, tokens)),
        min(GPU_PATCHES, max(LEAST_PATCHES, patches)),
        even,
    )


def costs_for(model: MossVLLMHeadModel) -> Costs:
    """The costs of steps, estimated by operations and bytes."""
    text, language = model.config.text_config, model.model.language_model
    weight = language.embed_tokens.weight
    flops, read, beside = SPEEDS["cpu" if weight.device.type == "cpu" else "cuda"]
    row = 2 * (num_weights(language.layers) + num_weights(model.lm_head)) / flops
    stored = stored_bytes(language.layers) + stored_bytes(model.lm_head)
    layers, width = len(text.cross_attention_layers), text.head_dim
    token = 2 * layers * text.num_key_value_heads * width * weight.element_size() / read
    pair = 4 * layers * text.num_attention_heads * width / flops
    return Costs(Work(stored / read + beside, row, token, row, pair, 2 * num_weights(model.model.visual) / flops))


def even_patches(tower: VisionTower) -> float:
    """Patches n of a frame whose attention takes as many FLOPs, 4 n² · hidden, as a block's linears, 2 n · weights."""
    return num_weights(tower.blocks[0]) / (2 * tower.config.hidden_size)
