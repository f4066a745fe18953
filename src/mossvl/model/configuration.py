"""Configuration of MOSS-VL: the vision tower, the language model, and the two together.

A configuration of which no model can be made raises a `ValueError` that names part and field, before anything is
allocated.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from mossvl.checkpoints.dtypes import check_dtypes, check_stored_dtype
from mossvl.checkpoints.headers import usable
from mossvl.checkpoints.quantizers import quantizes
from mossvl.options.checks import Check, check_each

LARGEST = 2**24
"""Upper bound of every size: far beyond all models, yet the bytes of a parameter of such sides do not overflow."""


def _whole(name: str, value: Any, least: int = 1, most: int = LARGEST) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} {value!r:.40} must be a whole number from {least} to {most}")
    return value


def _token(name: str, value: Any) -> int:
    return _whole(name, value, least=0)


def _positive(name: str, value: Any) -> float:
    """A finite number above 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ValueError(f"{name} {value!r:.40} must be a finite number above 0")
    return value


def _activation(name: str, value: str) -> str:
    if value not in ACT2FN:
        raise ValueError(f"{name} {value!r:.40} is not an activation of transformers, such as silu")
    return value


def _check_layers(name: str, given: Iterable[Any], layers: int) -> None:
    """Check that numbers of layers are in range and distinct."""
    numbers = list(given)
    for number in numbers:
        _whole(name, number, least=0, most=layers - 1)
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"{name} {numbers!r:.80} must be distinct")


class MossVLPartConfig(PreTrainedConfig):
    """Base class of the configurations.

    Attributes:
        checks: the check of each setting, by name.
    """

    checks: ClassVar[dict[str, Check]] = {}

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("num_labels", None)  # For classifiers only; transformers would make a name for each label.
        methods = [name for name in kwargs if callable(getattr(type(self), name, None))]
        if methods:
            raise ValueError(f"{', '.join(methods)} is not the name of a setting")
        part = f"{self.base_config_key}: " if self.base_config_key else ""
        check_stored_dtype(f"{part}dtype", self.dtype)
        check_stored_dtype(f"{part}torch_dtype", kwargs.get("torch_dtype"))
        quantizer = kwargs.get("quantization_config")
        if quantizer is not None and not isinstance(quantizer, Mapping) and not hasattr(quantizer, "to_dict"):
            raise ValueError(f"{part}quantization_config {quantizer!r:.80} must be an object {{…}} or null")
        if isinstance(quantizer, Mapping) and not quantizes(quantizer):
            del kwargs["quantization_config"]  # It quantizes nothing, but transformers would refuse it.
        super().__post_init__(**kwargs)
        check_each(self, self.checks, part)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any) -> Self:
        """As in transformers.

        Raises:
            CheckpointError: no model can be made of the configuration.
            OSError: there is no configuration.
        """
        with usable(f"the configuration of {pretrained_model_name_or_path}"):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """As in transformers, whose `AutoConfig` calls this method.

        Raises:
            CheckpointError: no model can be made of the configuration.
            OptionError: the given `dtype` is not one to compute in.
        """
        check_dtypes(kwargs.get("dtype", kwargs.get("torch_dtype")))
        with usable("the configuration"):
            return super().from_dict(config_dict, **kwargs)


@strict
class MossVLVisionConfig(MossVLPartConfig):
    """The vision tower and its merger; defaults are those of the published 11 B checkpoints."""

    model_type = "moss_vl_vision"
    base_config_key = "vision_config"
    checks: ClassVar[dict[str, Check]] = {
        **dict.fromkeys(("depth", "hidden_size", "intermediate_size", "num_heads", "in_channels"), _whole),
        **dict.fromkeys(("patch_size", "temporal_patch_size", "spatial_merge_size"), _whole),
        **dict.fromkeys(("num_position_embeddings", "out_hidden_size"), _whole),
        "hidden_act": _activation,
        "initializer_range": _positive,
    }

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
        part = "vision_config"
        _whole(f"{part}: pixels_of_a_patch", self.in_channels * self.temporal_patch_size * self.patch_size**2)
        _whole(f"{part}: merged_hidden_size", self.hidden_size * self.spatial_merge_size**2)
        _check_layers(f"{part}: deepstack_visual_indexes", self.deepstack_visual_indexes, self.depth)
        if self.hidden_size % (4 * self.num_heads):
            raise ValueError(
                f"vision_config: hidden_size {self.hidden_size} must be a multiple of 4 × num_heads "
                f"({self.num_heads}), because half of every head is rotated by rows and half by columns"
            )
        if math.isqrt(self.num_position_embeddings) ** 2 != self.num_position_embeddings:
            raise ValueError(f"vision_config: num_position_embeddings {self.num_position_embeddings} is not a square")


@strict
class MossVLTextConfig(MossVLPartConfig):
    """The language model; defaults are those of the published 11 B checkpoints.

    `rope_parameters` holds `rope_theta`, `mrope_section` (frequencies for time, height and width; they add up to
    `head_dim / 2`) and `mrope_interleaved`. The older spelling, `rope_theta` beside `rope_scaling`, loads too.
    """

    model_type = "moss_vl_text"
    base_config_key = "text_config"
    checks: ClassVar[dict[str, Check]] = {
        **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"), _whole),
        **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "head_dim"), _whole),
        "max_position_embeddings": _whole,
        "hidden_act": _activation,
        "rms_norm_eps": _positive,
        "initializer_range": _positive,
    }
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
        part = "text_config"
        _whole(f"{part}: width_of_all_heads", self.num_attention_heads * self.head_dim)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"text_config: num_attention_heads {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        _check_layers(f"{part}: cross_attention_layers", self.cross_attention_layers, self.num_hidden_layers)
        if self.attention_dropout:
            raise ValueError(f"text_config: attention_dropout {self.attention_dropout} is not supported; it must be 0")
        self.rope_parameters = self._checked_rope(dict(self.rope_parameters or {}))

    def _checked_rope(self, rope: dict[str, Any]) -> dict[str, Any]:
        """`rope_parameters` with defaults filled in."""
        rope.setdefault("rope_type", "default")
        rope.setdefault("rope_theta", self.default_theta)
        rope.setdefault("mrope_interleaved", True)
        side = 5 * self.head_dim // 32  # 20 of the published 64 frequencies, for height and for width
        rope.setdefault("mrope_section", [self.head_dim // 2 - 2 * side, side, side])
        if rope["rope_type"] != "default" or rope["mrope_interleaved"] is not True:
            raise ValueError(
                f"text_config: rope_parameters {rope} must have rope_type 'default' and mrope_interleaved true, "
                "as XRoPE has"
            )
        _positive("text_config: rope_theta", rope["rope_theta"])
        sections = rope["mrope_section"]
        if not isinstance(sections, list | tuple) or len(sections) != 3:
            raise ValueError(f"text_config: mrope_section {sections!r:.80} must be three numbers: time, height, width")
        for section in sections:
            _whole("text_config: mrope_section", section, least=0)
        if 2 * sum(sections) != self.head_dim:
            raise ValueError(
                f"text_config: mrope_section {sections} must add up to head_dim / 2 = {self.head_dim / 2:g}"
            )
        return rope


@strict
class MossVLConfig(MossVLPartConfig):
    """A whole MOSS-VL model. `text_config` and `vision_config` may be given as dicts."""

    model_type = "moss_vl"
    checks: ClassVar[dict[str, Check]] = {
        **dict.fromkeys(("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"), _token),
        "vision_seq_pad_multiple": lambda name, value: _whole(f"the model: {name}", value),
    }
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {
        "vision_config": MossVLVisionConfig,
        "text_config": MossVLTextConfig,
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "past_key_values"]
    auto_map: ClassVar[dict[str, str]] = {}  # TRL reads it of every configuration whose class is not transformers' own

    if TYPE_CHECKING:  # after __post_init__
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
        self.architectures: list[str] = getattr(self, "architectures", None) or ["MossVLForConditionalGeneration"]
        super().__post_init__(**kwargs)
        if self.vision_config.out_hidden_size != self.text_config.hidden_size:
            raise ValueError(
                f"vision_config.out_hidden_size {self.vision_config.out_hidden_size} must equal "
                f"text_config.hidden_size {self.text_config.hidden_size}"
            )
