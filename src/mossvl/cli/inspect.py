"""`mossvl inspect`: contents of a checkpoint, and differences from its configuration."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mossvl.cli.checkpoint import check_checkpoint, prepare, read
from mossvl.cli.fitting import FRAMES, SIDE, fits
from mossvl.cli.memory import kv_bytes, readable_bytes
from mossvl.errors import CheckpointError

if TYPE_CHECKING:
    from mossvl.checkpoints.headers import TensorInfo
    from mossvl.model.configuration import MossVLConfig
    from mossvl.quantization.formats import Format
    from mossvl.quantization.schemes import Schemes

PARTS = (
    ("model.visual.merger", "merger"),
    ("model.visual.", "vision tower"),
    ("model.language_model.embed_tokens.", "embeddings"),
    ("lm_head.", "lm_head"),
    ("model.language_model.norm.", "norm and separator"),
    ("model.separator_token", "norm and separator"),
)
"""Prefixes of tensor names, and their parts of the model; the configuration says which decoder layer is which kind."""

ORDER = (
    *("vision tower", "merger", "embeddings", "self-attention layers", "cross-attention layers"),
    *("norm and separator", "lm_head", "unknown"),
)


def inspect(
    checkpoint: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder of a checkpoint.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show the contents of a checkpoint, and every difference from its configuration; reads headers only.

    The exit code is 1 if there are differences, and 2 if the folder is not a MOSS-VL checkpoint.
    """
    folder = Path(check_checkpoint(checkpoint))
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder; inspect reads those on this machine, also in the hub's cache (mossvl doctor "
            "says where that is)"
        )
    prepare()
    found = examine(folder)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        _print(found)
    if found["differences"]:
        raise typer.Exit(1)


def examine(folder: Path) -> dict[str, Any]:
    """Return the object of --json.

    Raises:
        CheckpointError: the folder is not a MOSS-VL checkpoint, or a file is missing or broken.
    """
    from mossvl.checkpoints.headers import read_headers, require_model_type, without_ignored
    from mossvl.checkpoints.quantizers import read_format
    from mossvl.checkpoints.strict import header_differences
    from mossvl.model.configuration import MossVLConfig
    from mossvl.offline.interface import MossVLForConditionalGeneration
    from mossvl.quantization.formats import Unquantized

    require_model_type(folder)
    config: MossVLConfig = read(MossVLConfig, str(folder))
    form = read_format(folder)
    tensors = without_ignored(read_headers(folder))
    text, vision = kv_bytes(config.text_config)
    layers = config.text_config.num_hidden_layers + config.vision_config.depth
    # A layer has a dozen tensors: a model with more layers than tensors is not even made.
    schemes = stored_schemes(config, form, tensors) if layers <= len(tensors) else {}
    return {
        "checkpoint": str(folder),
        "configuration": summary(config),
        "files": len({info.file for info in tensors.values()}),
        "tensors": len(tensors),
        "quantization": None if isinstance(form, Unquantized) else form.told,
        "dtypes": _dtypes(tensors, schemes),
        "parameters": parameters(tensors, config, schemes),
        "weight_bytes": sum(info.bytes for info in tensors.values()),
        "kv_bytes_per_1000_text_tokens": 1000 * text,
        "kv_bytes_per_1000_vision_tokens": 1000 * vision,
        "fits": fits(config, schemes) if layers <= len(tensors) else {},
        "differences": header_differences(MossVLForConditionalGeneration, config, form, tensors),
    }


def summary(config: "MossVLConfig") -> dict[str, Any]:
    """Return the sizes of the language model and the vision tower."""
    text, vision = config.text_config, config.vision_config
    return {
        "text": {
            "layers": text.num_hidden_layers,
            "cross_attention_layers": list(text.cross_attention_layers),
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "heads": text.num_attention_heads,
            "kv_heads": text.num_key_value_heads,
            "head_dim": text.head_dim,
            "vocabulary": text.vocab_size,
            "context": text.max_position_embeddings,
        },
        "vision": {
            "layers": vision.depth,
            "hidden_size": vision.hidden_size,
            "heads": vision.num_heads,
            "patch_size": vision.patch_size,
            "merge_size": vision.spatial_merge_size,
            "deepstack_layers": list(vision.deepstack_visual_indexes),
        },
    }


def stored_schemes(config: "MossVLConfig", form: "Format", tensors: "dict[str, TensorInfo]") -> "Schemes":
    """The schemes of the maps that the checkpoint has quantized."""
    import torch

    from mossvl.model.modeling import MossVLLMHeadModel

    with torch.device("meta"):
        return form.schemes(MossVLLMHeadModel(config), tensors)


def counted(tensors: "dict[str, TensorInfo]", schemes: "Schemes") -> Iterator[tuple[str, str, int]]:
    """Yield name, dtype and number of the weights of each tensor; 0 of scales and the like.

    Two 4-bit weights are in a byte, eight in an integer of 32 bits.
    """
    for name, info in tensors.items():
        scheme = schemes.get(name.removesuffix("_packed").removesuffix(".weight"))
        owned = name.partition(".weight")[0] in schemes
        if scheme is None:
            yield name, str(info.dtype).removeprefix("torch."), 0 if owned else math.prod(info.shape)
        else:
            packed = 1 if scheme.kind == "fp8" else 2 * info.dtype.itemsize
            yield name, scheme.kind, packed * math.prod(info.shape)


def parameters(tensors: "dict[str, TensorInfo]", config: "MossVLConfig", schemes: "Schemes") -> dict[str, int]:
    """Count parameters by part of the model, and in total."""
    crossing = {str(layer) for layer in config.text_config.cross_attention_layers}
    counts: Counter[str] = Counter()
    for name, _, count in counted(tensors, schemes):
        counts[_part(name, crossing)] += count
    return {part: counts[part] for part in ORDER if counts[part]} | {"total": counts.total()}


def _part(name: str, crossing: set[str]) -> str:
    if "language_model.layers." in name:
        rest = name.partition("language_model.layers.")[2]
        return "cross-attention layers" if rest.partition(".")[0] in crossing else "self-attention layers"
    return next((part for start, part in PARTS if name.startswith(start)), ORDER[-1])


def _dtypes(tensors: "dict[str, TensorInfo]", schemes: "Schemes") -> dict[str, int]:
    """Count parameters by dtype or quantization, the most frequent first."""
    counts: Counter[str] = Counter()
    for _, dtype, count in counted(tensors, schemes):
        counts[dtype] += count
    return {dtype: count for dtype, count in counts.most_common() if count}


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, soft_wrap=True)
    files = f"{found['files']} file" + ("s" if found["files"] != 1 else "")
    told = found["quantization"] or "not quantized"
    dtypes = ", ".join(found["dtypes"])
    console.print(f"{found['checkpoint']}: {found['tensors']:,} tensors in {files}, {dtypes} ({told})")
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for tower, sizes in found["configuration"].items():
        table.add_row("", "", "")
        table.add_row(tower, "", "")
        for name, value in sizes.items():
            several = isinstance(value, list)
            number, names = f"{len(value) if several else value:,}", ", ".join(map(str, value)) if several else ""
            table.add_row(f"  {name.replace('_', ' ')}", number, names)
    table.add_row("", "", "")
    table.add_row("parameters", "", "")
    for part, count in found["parameters"].items():
        table.add_row(f"  {part}", f"{count:,}", f"{100 * count / found['parameters']['total']:.1f} %")
    table.add_row("", "", "")
    table.add_row("memory", "", "")
    table.add_row("  weights, as stored", readable_bytes(found["weight_bytes"]))
    table.add_row("  KV, 1,000 text tokens", readable_bytes(found["kv_bytes_per_1000_text_tokens"]), "in bfloat16")
    table.add_row("  KV, 1,000 vision tokens", readable_bytes(found["kv_bytes_per_1000_vision_tokens"]), "in bfloat16")
    table.add_row("", "", "")
    table.add_row(f"fits, with {FRAMES} frames of {SIDE} × {SIDE}", "weights", "smallest card")
    for name, fit in found["fits"].items():
        card = f"{fit['card_gb']} GB" if fit["card_gb"] else "none"
        table.add_row(f"  {name}", readable_bytes(fit["weight_bytes"]), card)
    console.print(table)
    console.print()
    if not found["differences"]:
        console.print("Names and shapes are those that the configuration requires.")
        return
    console.print(f"{len(found['differences'])} differences from the configuration:")
    for line in found["differences"]:
        console.print(f"  {line}")
