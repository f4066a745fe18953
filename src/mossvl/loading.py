"""One call from a checkpoint to a model and its processor."""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mossvl.adapters.files import FILES, AdapterFiles
from mossvl.checkpoints.default import tell_default, with_tiny
from mossvl.checkpoints.dtypes import COMPUTED, computed_dtype
from mossvl.checkpoints.headers import read_headers, require_model_type, usable, without_ignored
from mossvl.checkpoints.hub import download
from mossvl.checkpoints.location import check_location, repository_of
from mossvl.checkpoints.quantizers import read_format
from mossvl.checkpoints.strict import check_weights, read_configuration, read_generation_config
from mossvl.checkpoints.weights import Progress, load_weights
from mossvl.device.following import Followers
from mossvl.errors import CheckpointError, OptionError
from mossvl.forking import check_fork
from mossvl.model.configuration import MossVLConfig
from mossvl.offline.empty import on_meta, with_memory
from mossvl.offline.interface import MossVLForConditionalGeneration
from mossvl.options.engine import check_quantization
from mossvl.parallel.ranks import LeadingRanks, Ranks
from mossvl.parallel.share import check_size, devices_of_ranks, is_cut
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.prompt import IMAGE_TOKEN
from mossvl.quantization.schemes import Schemes, left_plain, main_kind, own_schemes, quantized_maps

logger = logging.getLogger(__name__)

DOWNLOADED = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
"""Files that are fetched from a repository on the model hub: data only."""

LARGE_BYTES = 2**30
"""Bytes of weights from which on loading shows a progress bar by default."""


def load(
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    progress: bool | None = None,
    quantization: str | None = None,
    tensor_parallel_size: int = 1,
) -> tuple[MossVLForConditionalGeneration, MossVLProcessor]:
    """Load a checkpoint for inference.

    Args:
        checkpoint: a folder, or the name of a repository on the model hub (`owner/name`, or `owner/name@revision`);
            without one, mossvl-tiny is loaded.
        device: "cuda", "cuda:1", "cpu", …; by default cuda if there is a GPU, else cpu.
        dtype: "bfloat16", "float32" or "float16"; by default bfloat16 on a GPU and float32 on a CPU.
        progress: show a progress bar on stderr; by default if stderr is a terminal and the weights are large.
        quantization: "fp8", "int4", "nf4", or on a CPU "int8", in which weights are quantized while they are read (see
            docs/quantization.md); by default, weights are as the checkpoint has them, quantized or not.
        tensor_parallel_size: processes among which the language model is cut, this one included, each on a GPU of its
            own (see docs/scale.md). Such a model answers by its engine alone.

    Raises:
        CheckpointError: the checkpoint is missing, of another model type, does not fit its configuration, or is
            quantized in a way that cannot be read.
        OptionError: there is no such device, models do not compute in the dtype, there is no such quantization, the
            checkpoint has another, the model cannot be cut into so many parts, or there are fewer GPUs.
        EngineError: this process was forked from one that had computed before, or another process cannot be started.
    """
    target = resolve_device(device)
    kind = resolve_dtype(dtype, target)
    check_quantization(quantization, target.type)
    target, *_ = targets = devices_of_ranks(target, tensor_parallel_size)
    check_fork(target.type)
    folder = folder_of(checkpoint)
    require_model_type(folder)
    read_format(folder)
    config = read_configuration(MossVLForConditionalGeneration, folder)
    if isinstance(config.dtype, torch.dtype) and config.dtype not in (*COMPUTED, torch.float64):
        logger.warning("%s names %s, in which models do not compute; it is loaded in %s", folder, config.dtype, kind)
    processor = read_processor(folder)
    check_together(processor, config, folder)
    check_weights(MossVLForConditionalGeneration, config, folder)
    generation_config = read_generation_config(folder)
    weights = folder, kind, quantization, str(with_tiny(checkpoint))
    _whole(folder, config, kind, quantization, tensor_parallel_size)  # Refuses before weights have memory.
    if tensor_parallel_size == 1:
        model = _loaded(None, target, *weights, progress=progress)
    else:
        with leading(targets, follow_checkpoint, *weights) as ranks:
            model = _loaded(ranks, target, *weights, progress=progress)
    if quantization and (left := left_plain(model)):
        logger.warning("%d maps, such as %s, do not divide into blocks of %s", len(left), left[0], quantization)
    model.generation_config = generation_config
    tell_default(checkpoint)
    return model, processor


def _whole(
    folder: Path, config: MossVLConfig, dtype: torch.dtype, quantization: str | None, size: int
) -> MossVLForConditionalGeneration:
    """The whole model of a checkpoint, quantized as it is or is to be while it is read, without memory.

    Raises:
        OptionError: the weights are quantized otherwise, or `size` ranks cannot divide the model.
    """
    form, headers = read_format(folder), without_ignored(read_headers(folder))

    def schemes(plain: nn.Module) -> Schemes:
        found = form.schemes(plain, headers)
        refuse_another(quantization, found, folder)
        return found or (own_schemes(plain, quantization) if quantization else {})

    model = on_meta(config, dtype, schemes)
    check_size(size, config.text_config, model)
    return model


def _loaded(
    ranks: Ranks | None,
    device: torch.device,
    folder: Path,
    dtype: torch.dtype,
    quantization: str | None,
    name: str,
    progress: bool | None = False,
) -> MossVLForConditionalGeneration:
    """Load this rank's part of a checkpoint, or the whole of it."""
    config = read_configuration(MossVLForConditionalGeneration, folder)
    whole = _whole(folder, config, dtype, quantization, 1 if ranks is None else ranks.share.size)
    model = with_memory(whole, device, ranks)
    model.name_or_path = model.config._name_or_path = name
    with _bar(progress) as advance:

        def going_on(done: int, total: int) -> None:
            if ranks is not None:
                ranks.check()
            if advance is not None:
                advance(done, total)

        load_weights(model, folder, going_on, None if ranks is None else ranks.share)
    return model


def follow_checkpoint(ranks: Ranks, *weights: Any) -> Followers:
    """In the process of another rank: load its part of a checkpoint, and return what follows rank 0."""
    return Followers(_loaded(ranks, ranks.device, *weights), ranks)


@contextmanager
def leading(devices: Sequence[torch.device], follow: Callable[..., Followers], *given: Any) -> Iterator[LeadingRanks]:
    """Start the other ranks, which make their parts meanwhile; at the end, they are met.

    Raises:
        MossVLError: another rank has failed.
    """
    ranks = LeadingRanks(devices, follow, *given)
    try:
        yield ranks
        ranks.meet()
    except BaseException:
        ranks.close()
        raise


def folder_of(checkpoint: str | Path | None) -> Path:
    """Return the folder of a checkpoint, by default mossvl-tiny, downloaded if it is the name of a repository.

    Raises:
        CheckpointError: there is no such folder, or it cannot be downloaded.
    """
    checkpoint = with_tiny(checkpoint)
    check_location(checkpoint)
    return _at_hand(checkpoint, DOWNLOADED)


def adapter_folders(given: Mapping[str, str], base: str | Path | nn.Module | None) -> dict[str, str]:
    """Return the folders of adapters by name, downloaded where they are names of repositories.

    Args:
        base: a checkpoint, by default mossvl-tiny, which they must fit, as is checked before its weights are read; or a
            model, which is checked when its engine reads them.

    Raises:
        CheckpointError: there is no such folder, it cannot be downloaded, or it holds no adapter that can be used.
    """
    model: nn.Module | None = None
    if not isinstance(base, nn.Module):
        base = with_tiny(base)
        folder = folder_of(base)
        require_model_type(folder)
        config = read_configuration(MossVLForConditionalGeneration, folder)
        model = on_meta(config, torch.float32, lambda plain: {})
    folders = {}
    for name, path in given.items():
        try:
            check_location(path, "an adapter (LoRA)")
            folder = _at_hand(path, list(FILES))
            files = AdapterFiles.read(folder)
            if model is not None:
                files.check(model, str(base))
        except CheckpointError as error:
            raise CheckpointError(f"adapter {name!r}: {error}") from error
        folders[name] = str(folder)
    return folders


def _at_hand(given: str | Path, files: list[str]) -> Path:
    """Return a folder, or that of a repository's files, which are downloaded.

    Raises:
        CheckpointError: they cannot be downloaded.
    """
    repository = repository_of(given)
    if repository is None:
        return Path(given)
    return download(*repository, files)


def random_model(
    config: MossVLConfig | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    seed: int = 0,
    quantization: str | None = None,
    tensor_parallel_size: int = 1,
) -> MossVLForConditionalGeneration:
    """Make a model with random weights on a device, for benchmarks and tests; by default of the published size.

    Weights are normal with a standard deviation of 0.02, but 1 for embeddings and 0.02 / √96 for projections into the
    residual stream; docs/model.md compares errors of bfloat16 with these and with 0.02 throughout. Gates of cross
    attention are 0.5, so that vision affects logits. With a quantization, weights are quantized as by `load`. A model
    that is cut has other weights than one that is whole.

    Raises:
        OptionError: there is no such device or quantization, models do not compute in the dtype, or the model cannot be
            cut into so many parts.
        EngineError: this process was forked from one that had computed before.
    """
    target = resolve_device(device)
    check_fork(target.type)
    check_quantization(quantization, target.type)
    kind = resolve_dtype(dtype, target)
    target, *_ = targets = devices_of_ranks(target, tensor_parallel_size)
    weights = config or MossVLConfig(), kind, seed, quantization
    if tensor_parallel_size == 1:
        return _random(None, target, *weights)
    whole = _whole_random(weights[0], kind, quantization)
    check_size(tensor_parallel_size, whole.config.text_config, whole)
    with leading(targets, follow_random, *weights) as ranks:
        model = _random(ranks, target, *weights)
    return model


def follow_random(ranks: Ranks, *weights: Any) -> Followers:
    """As `follow_checkpoint`, with random weights."""
    return Followers(_random(ranks, ranks.device, *weights), ranks)


def _whole_random(config: MossVLConfig, dtype: torch.dtype, quantization: str | None) -> MossVLForConditionalGeneration:
    return on_meta(config, dtype, lambda plain: own_schemes(plain, quantization) if quantization else {})


@torch.no_grad()
def _random(
    ranks: Ranks | None,
    device: torch.device,
    config: MossVLConfig,
    dtype: torch.dtype,
    seed: int,
    quantization: str | None,
) -> MossVLForConditionalGeneration:
    model = with_memory(_whole_random(config, dtype, quantization), device, ranks)
    same = generator = torch.Generator(device).manual_seed(seed)
    if ranks is not None:  # Ranks differ in what is cut, and have the same of the rest.
        generator = torch.Generator(device).manual_seed(seed + 1 + ranks.share.rank)
    deviations = {"embed_tokens.weight": 1.0, "o_proj.weight": 0.02 / 96**0.5, "down_proj.weight": 0.02 / 96**0.5}
    for name, parameter in model.named_parameters():
        if ranks is not None:
            ranks.check()
        if "norm" in name and name.endswith("weight"):
            parameter.fill_(1)
        elif name.endswith("gate"):
            parameter.fill_(0.5)
        elif name.endswith("bias"):
            parameter.zero_()
        else:
            own = generator if is_cut(name) and parameter.ndim > 1 else same
            parameter.normal_(std=deviations.get(".".join(name.split(".")[-2:]), 0.02), generator=own)
    for name, linear in quantized_maps(model):
        weight = torch.empty(linear.out_features, linear.in_features, device=device, dtype=dtype)
        weight.normal_(std=deviations.get(f"{name.split('.')[-1]}.weight", 0.02), generator=generator)
        linear.put(0, weight)
    return model


def refuse_another(quantization: str | None, found: Schemes, checkpoint: Path) -> None:
    """Refuse to quantize weights that are quantized otherwise.

    Raises:
        OptionError: they are.
    """
    kind = main_kind(found.values())
    if quantization is not None and kind is not None and kind != quantization:
        raise OptionError(
            f"{{quantization=}}, but the weights of {checkpoint} are {kind.upper()} already; leave "
            "{quantization} out, or give the checkpoint that it was made of",
            given={"quantization": quantization},
        )


def read_processor(folder: Path) -> MossVLProcessor:
    """Read the processor of a checkpoint.

    Raises:
        CheckpointError: a file of the processor is missing or malformed.
    """
    with usable(f"the processor of {folder}", missing=True):
        processor: MossVLProcessor = MossVLProcessor.from_pretrained(str(folder))
    return processor


def check_together(processor: MossVLProcessor, config: MossVLConfig, folder: Path) -> None:
    """Refuse a processor that does not fit the model.

    Raises:
        CheckpointError: the image token, the vocabulary or the patches differ.
    """
    if processor.image_token_id != config.image_token_id:
        raise CheckpointError(
            f"{folder}: its tokenizer has {IMAGE_TOKEN} as {processor.image_token_id}, its configuration as "
            f"{config.image_token_id}; is tokenizer.json missing?"
        )
    tokens = max(processor.tokenizer.get_vocab().values()) + 1
    if tokens > config.text_config.vocab_size:
        raise CheckpointError(
            f"{folder}: its tokenizer has tokens up to {tokens - 1}, but vocab_size is {config.text_config.vocab_size}"
        )
    vision, images = config.vision_config, processor.image_processor
    asked = (vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)
    made = (images.patch_size, images.temporal_patch_size, images.merge_size)
    if made != asked:
        raise CheckpointError(
            f"{folder}: its processor makes patches of {made}, its vision tower reads {asked} (patch_size, "
            "temporal_patch_size, merge_size)"
        )


@contextmanager
def _bar(wanted: bool | None) -> Iterator[Progress | None]:
    """Show a progress bar on stderr; yield the function that advances it, or None without a bar."""
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        yield None
        return
    from rich import progress as rich
    from rich.console import Console

    columns = (rich.TextColumn("loading"), rich.BarColumn(), rich.DownloadColumn(), rich.TransferSpeedColumn())
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("weights", total=None, visible=False)

        def advance(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total, visible=bool(wanted) or total >= LARGE_BYTES)

        yield advance


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the device to run on; by default cuda if there is a GPU, else cpu.

    Raises:
        OptionError: there is no such device.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise OptionError("{device=} is not a device; try 'cpu' or 'cuda'", given={"device": device}) from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise OptionError("{device=}: there is no usable GPU on this machine; try 'cpu'", given={"device": str(device)})
    return target


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the dtype to compute in; by default bfloat16 on a GPU and float32 on a CPU.

    Raises:
        OptionError: models do not compute in the dtype.
    """
    if dtype is None or dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return computed_dtype(dtype, device.type == "cpu")
