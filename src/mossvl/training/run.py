"""Fine-tuning from files: what `mossvl train` does."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments, set_seed

from mossvl import loading
from mossvl.data.index import RecordIndex
from mossvl.errors import DataError, OptionError
from mossvl.options import MediaOptions
from mossvl.processing.processor import MossVLProcessor
from mossvl.training.batches import Packer
from mossvl.training.dataset import FileExamples
from mossvl.training.parts import Part, lora, train_only
from mossvl.training.trainer import PackedTrainer, last_checkpoint

FREE = {"output", "resume", "device", "workers", "save_every", "eval_every", "log_every", "keep", "eval_data"}
"""Options that may change when a run is resumed."""
NOTED = "options.json"
INNER = (Part.MERGER, Part.CROSS_ATTENTION, Part.SELF_ATTENTION)


@dataclass(frozen=True)
class TrainOptions:
    """A run of fine-tuning.

    Args:
        checkpoint: the folder to start from.
        data: a file of records, or a folder of such files.
        output: where checkpoints go, and at the end `model`, or `adapter`.
        eval_data: records to evaluate with, every `eval_every` steps and at the end.
        media_dir: where relative paths of media start; by default beside the data.
        adapt: train adapters of this `rank` (LoRA), scaled by `alpha` / `rank`; else the weights themselves.
        parts: what is trained.
        epochs, max_steps: how long; `max_steps` counts if it is above 0.
        batch, accumulate: examples of a step are `batch` · `accumulate` · GPUs; each batch is one packed row.
        max_length: tokens of an example; longer ones are cut.
        bad: skip records that cannot be used, or stop at the first.
        gradient_checkpointing: compute layers twice, for less memory.
        vision_chunk: frames encoded at a time; None for all of a batch.
        keep: how many checkpoints are kept.
        resume: go on from the last checkpoint in `output`.

    Raises:
        OptionError: a number is out of range, or no part is chosen.
    """

    checkpoint: str
    data: Path
    output: Path
    eval_data: Path | None = None
    media_dir: Path | None = None
    adapt: bool = True
    parts: Sequence[Part] = INNER
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    epochs: float = 1.0
    max_steps: int = 0
    batch: int = 1
    accumulate: int = 1
    learning_rate: float = 1e-4
    warmup: float = 0.03
    weight_decay: float = 0.0
    max_length: int | None = None
    bad: Literal["skip", "stop"] = "skip"
    gradient_checkpointing: bool = False
    vision_chunk: int | None = None
    device: str | None = None
    dtype: str | None = None
    save_every: int = 500
    eval_every: int = 500
    log_every: int = 10
    keep: int = 2
    workers: int = 2
    seed: int = 0
    resume: bool = False
    media: MediaOptions = field(default_factory=MediaOptions)

    def differences(self, file: Path) -> list[str]:
        """Options that decide what is learned, where they are not those that an earlier run noted in a file."""
        noted = json.loads(file.read_text()) if file.is_file() else {}
        return [name for name, value in self._deciding().items() if name in noted and noted[name] != value]

    def note(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self._deciding(), indent=1))

    def _deciding(self) -> dict[str, str]:
        return {one.name: str(getattr(self, one.name)) for one in fields(self) if one.name not in FREE}

    def __post_init__(self) -> None:
        if not self.parts:
            raise OptionError(f"no part is trained; choose some of {', '.join(Part)}")
        positive = [
            "rank",
            "alpha",
            "batch",
            "accumulate",
            "vision_chunk",
            "save_every",
            "eval_every",
            "log_every",
            "keep",
        ]
        for name, value in {**dict.fromkeys(positive, 1), "max_steps": 0, "workers": 0}.items():
            given = getattr(self, name)
            if given is not None and given < value:
                raise OptionError(f"{name}={given} must be at least {value}")
        if not (self.epochs > 0 and self.learning_rate > 0 and 0 <= self.warmup < 1 and 0 <= self.dropout < 1):
            raise OptionError(
                f"epochs={self.epochs} and learning_rate={self.learning_rate} must be above 0, warmup={self.warmup} "
                f"and dropout={self.dropout} between 0 and 1"
            )


def examples_of(options: TrainOptions, path: Path, processor: MossVLProcessor) -> FileExamples:
    """The records of a file or folder as examples.

    Raises:
        DataError: there are none.
        OptionError: the processor normalises pixels in another way than models in training do.
    """
    if processor.pixel_scale != ((0.5,) * 3, (0.5,) * 3):
        raise OptionError(
            f"image_mean and image_std {processor.pixel_scale} are not supported in training; only 0.5 is"
        )
    index = RecordIndex.build(path)
    if not len(index):
        raise DataError(f"{path} has no records; expected one JSON object a line, or a list of them")
    media_dir = options.media_dir or (path if path.is_dir() else path.parent)
    return FileExamples(processor, index, media_dir, options.media, options.max_length, options.bad)


def train(options: TrainOptions) -> Path:
    """Fine-tune, and give the folder of the result.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        DataError: the data cannot be used.
        OptionError: there is nothing to resume, or something that would be overwritten.
        TrainingError: the run cannot go on.
    """
    last = last_checkpoint(options.output)
    if options.resume and last is None:
        raise OptionError(f"{options.output} has no checkpoint to resume from; leave --resume out to begin")
    if last is not None and not options.resume:
        raise OptionError(f"{options.output} has checkpoints of an earlier run; give --resume, or another folder")
    differing = options.differences(options.output / NOTED) if options.resume else []
    if differing:
        raise OptionError(f"{', '.join(differing)} are not those of the run in {options.output}; resume it as it began")
    device = loading.resolve_device(options.device)
    if device.index:
        raise OptionError(f"device={options.device!r}: choose a GPU with CUDA_VISIBLE_DEVICES")
    set_seed(options.seed)
    dtype = loading.resolve_dtype(options.dtype, device)
    model, processor = loading.load(options.checkpoint, "cpu", dtype)
    trained: Any = model
    if options.adapt:
        from peft import get_peft_model

        trained = get_peft_model(model, lora(model, options.parts, options.rank, options.alpha, options.dropout))
    else:
        train_only(model, options.parts)
    for parameter in trained.parameters():
        if parameter.requires_grad:  # small steps would be lost in a lower precision
            parameter.data = parameter.data.float()
    trainer = PackedTrainer(
        model=trained,
        args=arguments_of(options, device),
        processing_class=processor,
        data_collator=Packer(processor.image_token_id, processor.image_processor.merge_size, options.vision_chunk),
        train_dataset=examples_of(options, options.data, processor),
        eval_dataset=examples_of(options, options.eval_data, processor) if options.eval_data else None,
    )
    options.note(options.output / NOTED)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    if not options.adapt:
        model.to(dtype)
    return trainer.save_whole("adapter" if options.adapt else "model")


def arguments_of(options: TrainOptions, device: torch.device) -> TrainingArguments:
    gpu = device.type == "cuda"
    return TrainingArguments(
        output_dir=str(options.output),
        num_train_epochs=options.epochs,
        max_steps=options.max_steps or -1,
        per_device_train_batch_size=options.batch,
        per_device_eval_batch_size=options.batch,
        gradient_accumulation_steps=options.accumulate,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=options.warmup,
        weight_decay=options.weight_decay,
        optim="adamw_torch_fused" if gpu else "adamw_torch",
        bf16=gpu,
        use_cpu=not gpu,
        gradient_checkpointing=options.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if options.gradient_checkpointing else None,
        seed=options.seed,
        dataloader_num_workers=options.workers,
        dataloader_pin_memory=gpu,
        accelerator_config={"non_blocking": gpu},
        ddp_find_unused_parameters=True,  # a batch without pictures leaves the vision tower unused
        remove_unused_columns=False,
        prediction_loss_only=True,
        label_names=["labels"],
        logging_steps=options.log_every,
        logging_nan_inf_filter=False,
        save_steps=options.save_every,
        save_total_limit=options.keep,
        eval_strategy="steps" if options.eval_data else "no",
        eval_steps=options.eval_every,
        report_to=["tensorboard"],
    )
