"""Base of the Hugging Face classes of MOSS-VL: their names, initial weights and attention."""

import functools
import logging
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mossvl.checkpoints.headers import IGNORED
from mossvl.model.configuration import MossVLConfig
from mossvl.model.layers import CrossAttentionLayer, RMSNorm

logger = logging.getLogger(__name__)


class MossVLPreTrainedModel(PreTrainedModel):
    config_class = MossVLConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["SelfAttentionLayer", "CrossAttentionLayer", "VisionBlock"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _keys_to_ignore_on_load_unexpected = list(IGNORED)
    _supports_sdpa = True
    _supports_flash_attn = True

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        """Always choose the built-in attention, which needs no package beyond PyTorch."""
        if attn_implementation not in (None, "sdpa"):
            _log_attention_once(repr(attn_implementation))
        return "sdpa"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.get_text_config().initializer_range
        bias = getattr(module, "bias", None)
        if isinstance(module, nn.Linear | nn.Conv3d | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, RMSNorm | nn.LayerNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, CrossAttentionLayer):
            nn.init.zeros_(module.cross_attn_attn_gate)
            nn.init.zeros_(module.cross_attn_mlp_gate)
        elif isinstance(separator := getattr(module, "separator_token", None), nn.Parameter):
            nn.init.normal_(separator, std=std)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)


@functools.cache
def _log_attention_once(requested: str) -> None:
    logger.warning("attention: %s was asked for; mossvl's built-in attention runs instead", requested)
