"""The step budget for a model on its device."""

from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.model.vision import VisionTower
from mossvl.options.engine import EngineConfig
from mossvl.quantization.schemes import num_weights
from mossvl.scheduling.budget import GPU_PATCHES, GPU_TOKENS, StepBudget

CPU_FLOPS = 25e9
"""FLOPs of a step on a CPU: about half a second on a small machine."""
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


def even_patches(tower: VisionTower) -> float:
    """Patches n of a frame whose attention takes as many FLOPs, 4 n² · hidden, as a block's linears, 2 n · weights."""
    return num_weights(tower.blocks[0]) / (2 * tower.config.hidden_size)
