"""Writes the files of `foreign/`, with the packages whose formats they have; tests read them without the packages.

`python tests/quantization/foreign.py`, where compressed-tensors 0.20.1 and bitsandbytes 0.50.2 are installed.
"""

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from bitsandbytes import functional as bnb
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BitsAndBytesConfig

FOREIGN = Path(__file__).parent / "foreign"
CHECKPOINT = Path(__file__).parents[1] / "golden" / "checkpoint"
PROJECTIONS = (*(f"self_attn.{one}_proj" for one in "qkvo"), *(f"mlp.{one}_proj" for one in ("gate", "up", "down")))
MAPS = [f"model.language_model.layers.{layer}.{name}" for layer in (0, 2) for name in PROJECTIONS]
"""The maps of the golden checkpoint that are quantized; the files have the tensors of these, and of no others."""
SHOWN = [f"{name}.dequantized" for name in (MAPS[0], MAPS[-2])]
"""Also in the files: what the packages dequantize some maps to."""
FP8 = QuantizationArgs(num_bits=8, type="float", strategy="channel", symmetric=True)


def int4_of(group: int) -> QuantizationArgs:
    return QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=group, symmetric=True)


def weights() -> Tensor:
    """bfloat16 (9, 192): of several magnitudes, a row of zeros, rows with outliers."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(9, 192, generator=generator) * torch.logspace(-6, 3, 9)[:, None]
    rows[3] = 0
    rows[5, ::50] *= 40
    rows[6, 64:128] = 0
    return rows.bfloat16()


def fp8(weight: Tensor) -> dict[str, Tensor]:
    scale, zero = calculate_qparams(weight.amin(1, keepdim=True), weight.amax(1, keepdim=True), FP8)
    data = quantize(weight, scale, zero, FP8, dtype=torch.float8_e4m3fn)
    return {"weight": data, "weight_scale": scale, "dequantized": dequantize(data, scale, None, FP8)}


def int4(weight: Tensor, group: int) -> dict[str, Tensor]:
    args, groups = int4_of(group), weight.unflatten(1, (-1, group))
    scale, zero = calculate_qparams(groups.amin(2), groups.amax(2), args)
    data = quantize(weight, scale, zero, args, dtype=torch.int8)
    return {
        "weight_packed": pack_to_int32(data, 4),
        "weight_scale": scale,
        "weight_shape": torch.tensor(weight.shape),
        "dequantized": dequantize(data, scale, None, args),
    }


def nf4(weight: Tensor, nested: bool) -> dict[str, Tensor]:
    data, state = bnb.quantize_4bit(weight, blocksize=64, compress_statistics=nested, quant_type="nf4")
    made = {"weight": data, **{f"weight.{name}": one for name, one in state.as_dict(packed=True).items()}}
    state.shape = torch.Size((1, weight.numel()))  # The kernel for CPUs errs where blocks cross rows.
    return {**made, "dequantized": bnb.dequantize_4bit(data, state).view(weight.shape)}


def fp8_checkpoint(tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Of the recipe FP8_DYNAMIC: all linear maps but those of a list, which has names and patterns."""
    scheme = preset_name_to_scheme("FP8_DYNAMIC", ["Linear"])
    ignore = ["lm_head", "re:.*visual.*", r"re:.*\.layers\.[1345]\..*"]
    config = configuration("float-quantized", {"group_0": scheme}, ignore)
    config["packed_modules_mapping"] = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
    return config, in_place(tensors, MAPS, fp8)


def int4_checkpoint(tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Of two groups, by name and by pattern: 64 weights with a scale, and 32."""
    narrow = [name for name in MAPS if name.endswith(("down_proj", "o_proj"))]
    groups = {
        "group_0": QuantizationScheme(targets=[r"re:.*\.layers\.[02]\..*_proj$"], weights=int4_of(64)),
        "group_1": QuantizationScheme(targets=narrow, weights=int4_of(32)),
    }
    made = in_place(tensors, set(MAPS) - set(narrow), lambda weight: int4(weight, 64))
    return configuration("pack-quantized", groups, []), in_place(made, narrow, lambda weight: int4(weight, 32))


def nf4_checkpoint(tensors: dict[str, Tensor], nested: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    skipped = [
        "visual",
        "cross_attn",
        "lm_head",
        "down_proj",
        *(f"model.language_model.layers.{layer}" for layer in (1, 3, 4, 5)),
    ]
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=nested,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=skipped,
    )
    maps = [name for name in MAPS if not name.endswith("down_proj")]  # Of 160 in features: blocks would cross rows.
    return config.to_dict(), in_place(tensors, maps, lambda weight: nf4(weight, nested))


def configuration(form: str, groups: dict[str, Any], ignore: list[str]) -> dict[str, Any]:
    config = QuantizationConfig(
        config_groups=groups, format=form, quantization_status="compressed", ignore=ignore
    ).model_dump(mode="json")
    return {**config, "version": "0.20.1", "sparsity_config": {}, "transform_config": {}}


def in_place(
    tensors: dict[str, Tensor], names: Collection[str], quantize: Callable[[Tensor], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors, with those of `names` quantized."""
    made = dict(tensors)
    for name in names:
        made |= {f"{name}.{end}": one.contiguous() for end, one in quantize(made.pop(f"{name}.weight")).items()}
    return made


def main() -> None:
    weight = weights()
    kinds = {
        "fp8": fp8(weight),
        **{f"int4-{group}": int4(weight, group) for group in (32, 64)},
        "nf4": nf4(weight, nested=True),
        "nf4-plain": nf4(weight, nested=False),
    }
    tensors = {f"{kind}.{name}": one.contiguous() for kind, named in kinds.items() for name, one in named.items()}
    FOREIGN.mkdir(exist_ok=True)
    configs = {}
    plain = load_file(CHECKPOINT / "model.safetensors")
    checkpoints = {
        "fp8": fp8_checkpoint(plain),
        "int4": int4_checkpoint(plain),
        "nf4": nf4_checkpoint(plain, nested=True),
        "nf4-plain": nf4_checkpoint(plain, nested=False),
    }
    for kind, (config, made) in checkpoints.items():
        configs[kind] = config
        own = {name: one for name, one in made.items() if name not in plain or one.dtype != plain[name].dtype}
        expected = {name for name in own if name.endswith(".dequantized")} - set(SHOWN)
        save_file({name: one for name, one in own.items() if name not in expected}, FOREIGN / f"{kind}.safetensors")
    (FOREIGN / "configs.json").write_text(json.dumps(configs, indent=1) + "\n")
    save_file({"weight": weight, **tensors}, FOREIGN / "maps.safetensors")


if __name__ == "__main__":
    main()
