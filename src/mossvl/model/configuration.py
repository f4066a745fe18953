"""Configuration of MOSS-VL: the vision tower, the language model, and the two together."""

import math
from typing import TYPE_CHECKING, Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


def _check_positive(part: str, config: PreTrainedConfig, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{part}: {name} {getattr(config, name)} must be at least 1")


@strict
class MossVLVisionConfig(PreTrainedConfig):
    """The vision tower and its merger; defaults are those of the published 11 B checkpoints."""

    model_type = "moss_vl_vision"
    base_config_key = "vision_config"

    depth: int = 27
    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_heads: int = 16
    in_channels: int = 3
    patch_size: int = 16
    temporal_patch_size: int = 1
    spatial_merge_size: int = 2
    num_position_embeddings: int = 2304
    deepstack_visual_indexes: list[int] | tuple[int, ...] = (8, 16, 24)
    out_hidden_size: int = 4096
    hidden_act: str = "gelu_pytorch_tanh"
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        _check_positive(
            "vision_config",
            self,
            ("depth", "hidden_size", "intermediate_size", "num_heads", "patch_size", "spatial_merge_size"),
        )
        if self.hidden_size % (4 * self.num_heads):
            raise ValueError(
                f"vision_config: hidden_size {self.hidden_size} must be a multiple of 4 × num_heads "
                f"({self.num_heads}), because half of every head is rotated by rows and half by columns"
            )
        if math.isqrt(self.num_position_embeddings) ** 2 != self.num_position_embeddings:
            raise ValueError(f"vision_config: num_position_embeddings {self.num_position_embeddings} is not a square")
        if any(not 0 <= index < self.depth for index in self.deepstack_visual_indexes):
            indexes = list(self.deepstack_visual_indexes)
            raise ValueError(f"vision_config: deepstack_visual_indexes {indexes} must lie in 0…{self.depth - 1}")


@strict
class MossVLTextConfig(PreTrainedConfig):
    """The language model; defaults are those of the published 11 B checkpoints.

    `rope_parameters` holds `rope_theta`, `mrope_section` (frequencies for time, height and width; they add up to
    `head_dim / 2`) and `mrope_interleaved`. The older spelling, `rope_theta` beside `rope_scaling`, loads too.
    """

    model_type = "moss_vl_text"
    base_config_key = "text_config"
    default_theta = 5_000_000.0
    ignore_keys_at_rope_validation: ClassVar[set[str]] = {"mrope_section", "mrope_interleaved"}

    vocab_size: int = 151936
    hidden_size: int = 4096
    intermediate_size: int = 12288
    num_hidden_layers: int = 48
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int = 128
    cross_attention_layers: list[int] | tuple[int, ...] = tuple(range(2, 48, 4))
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_parameters: dict[str, Any] | None = None
    max_position_embeddings: int = 262144
    attention_bias: bool = False
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 151643
    eos_token_id: int | list[int] | None = 151645
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        _check_positive(
            "text_config",
            self,
            (
                "vocab_size",
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "head_dim",
            ),
        )
        rope = self.rope_parameters = dict(self.rope_parameters or {})
        rope.setdefault("rope_type", "default")
        rope.setdefault("rope_theta", self.default_theta)
        rope.setdefault("mrope_interleaved", True)
        side = 5 * self.head_dim // 32  # 20 of the published 64 frequencies, for height and for width
        rope.setdefault("mrope_section", [self.head_dim // 2 - 2 * side, side, side])
        if rope["rope_type"] != "default" or not rope["mrope_interleaved"]:
            raise ValueError(f"text_config: XRoPE is the default rope type, interleaved; got rope_parameters {rope}")
        if sum(rope["mrope_section"]) != self.head_dim // 2:
            raise ValueError(
                f"text_config: mrope_section {rope['mrope_section']} must add up to head_dim / 2 = {self.head_dim // 2}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"text_config: num_attention_heads {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        layers = list(self.cross_attention_layers)
        if any(not 0 <= layer < self.num_hidden_layers for layer in layers) or len(set(layers)) != len(layers):
            raise ValueError(
                f"text_config: cross_attention_layers {layers} must be distinct, in 0…{self.num_hidden_layers - 1}"
            )
        if self.attention_dropout:
            raise ValueError(f"text_config: attention_dropout {self.attention_dropout} is not supported; it must be 0")


@strict
class MossVLConfig(PreTrainedConfig):
    """A whole MOSS-VL model. `text_config` and `vision_config` may be given as dicts."""

    model_type = "moss_vl"
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {
        "vision_config": MossVLVisionConfig,
        "text_config": MossVLTextConfig,
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    if TYPE_CHECKING:  # what they are once __post_init__ is through
        text_config: MossVLTextConfig
        vision_config: MossVLVisionConfig
    else:
        text_config: dict | PreTrainedConfig | None = None
        vision_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    vision_seq_pad_multiple: int = 1
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.text_config, PreTrainedConfig):
            self.text_config = MossVLTextConfig(**(self.text_config or {}))
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = MossVLVisionConfig(**(self.vision_config or {}))
        super().__post_init__(**kwargs)
        if self.vision_config.out_hidden_size != self.text_config.hidden_size:
            raise ValueError(
                f"vision_config.out_hidden_size {self.vision_config.out_hidden_size} must equal "
                f"text_config.hidden_size {self.text_config.hidden_size}"
            )
