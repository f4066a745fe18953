"""How much a step of a model does on its device."""

from torch import nn

from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.model.vision import VisionTower
from mossvl.options.engine import EngineConfig
from mossvl.scheduling.budget import GPU_PATCHES, GPU_TOKENS, StepBudget

CPU_FLOPS = 25e9
"""About half a second on a small machine."""
LEAST_TOKENS, LEAST_PATCHES = 64, 256
"""On a CPU, however much work they are: with fewer, most of the time goes into reading the weights."""


def budget_for(config: EngineConfig, model: MossVLLMHeadModel) -> StepBudget:
    """For a model where its weights are."""
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


def num_weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def even_patches(tower: VisionTower) -> float:
    """Patches of a frame whose attention takes as many FLOPs as the linears of the blocks do."""
    return num_weights(tower.blocks[0]) / (2 * tower.config.hidden_size)
