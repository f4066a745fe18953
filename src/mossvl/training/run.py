"""Fine-tuning from files: the run of `mossvl train`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainingArguments, set_seed

from mossvl import loading
from mossvl.data.index import RecordIndex
from mossvl.device.executor import has_triton
from mossvl.errors import DataError, MossVLError, OptionError
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.stream import StateTokens
from mossvl.quantization.linear import QuantizedLinear
from mossvl.quantization.schemes import quantized_maps
from mossvl.ranks import first_process, num_processes
from mossvl.training.batches import Packer
from mossvl.training.checkpoints import numbered, resumable
from mossvl.training.dataset import FileExamples
from mossvl.training.examples import Example
from mossvl.training.options import Part, TrainOptions
from mossvl.training.parts import lora, train_only
from mossvl.training.streams import Slots
from mossvl.training.trainer import PackedTrainer, compile_layers, next_tokens, packed_arguments
from mossvl.training.weighting import StateWeighting

NOTED = "options.json"
"""The file of `TrainOptions.note` in the output folder."""


def examples_of(
    options: TrainOptions, path: Path, processor: MossVLProcessor, leading_slot_dropout: float = 0.0
) -> FileExamples:
    """The records of a file or folder as examples.

    Raises:
        DataError: there are no records.
        OptionError: the processor's mean and standard deviation are not 0.5, with which training normalises pixels.
    """
    if processor.pixel_scale != ((0.5,) * 3, (0.5,) * 3):
        raise OptionError(
            f"image_mean and image_std {processor.pixel_scale} are not supported in training; only 0.5 is"
        )
    index = RecordIndex.build(path)
    if not len(index):
        raise DataError(f"{path} has no records; expected one JSON object a line, or a list of them")
    media_dir = options.media_dir or (path if path.is_dir() else path.parent)
    slots = Slots(leading_slot_dropout, options.turn_end_loss, options.seed)
    return FileExamples(processor, index, media_dir, options.media, options.max_length, options.bad, slots)


def train(options: TrainOptions) -> Path:
    """Fine-tune, and return the folder of the result.

    Raises:
        CheckpointError: the checkpoint cannot be loaded, or all checkpoints to resume from are damaged.
        DataError: the data cannot be used.
        OptionError: no output is named; there is no checkpoint to resume from, or one that would be overwritten; or an
            option that must not change differs from the run to resume.
        TrainingError: the loss or the weights are not finite, or a checkpoint cannot be written.
    """
    last = resumable(options.folder) if options.resume else None
    if options.resume and last is None:
        raise OptionError(f"{options.folder} has no checkpoint to resume from; leave --resume out to begin")
    if not options.resume and numbered(options.folder):
        raise OptionError(f"{options.folder} has checkpoints of an earlier run; give --resume, or another folder")
    differing = options.differences(options.folder / NOTED) if options.resume else {}
    if differing:
        told = ", ".join(f"{{{name}}}={how}" for name, how in differing.items())
        raise OptionError(
            f"{told}: the run in {options.folder} resumes only with the options that it began with; "
            "give these, or train the result further in another folder",
            given=differing,
        )
    device = loading.resolve_device(options.device)
    if device.index:
        raise OptionError("{device=}: choose a GPU with CUDA_VISIBLE_DEVICES", given={"device": options.device})
    set_seed(options.seed)
    dtype = loading.resolve_dtype(options.dtype, device)
    # Quantizing is work for the GPU; several processes move to their own GPUs later.
    place = device if options.quantization and num_processes() == 1 else "cpu"
    model, processor = loading.load(options.checkpoint, place, dtype, quantization=options.quantization)
    trainer = trainer_of(
        options,
        model,
        processor,
        examples_of(options, options.data, processor, options.leading_slot_dropout),
        examples_of(options, options.eval_data, processor) if options.eval_data else None,
    )
    if first_process():
        options.note(options.folder / NOTED)
    with plain_errors():
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    if not options.adapt:
        model.to(dtype)
    return trainer.save_whole("adapter" if options.adapt else "model")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Remove the traceback that PyTorch puts before the messages of errors from DataLoader workers."""
    try:
        yield
    except MossVLError as error:
        kind = type(error)
        raise kind(str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].strip()) from error


def trainer_of(
    options: TrainOptions,
    model: MossVLLMHeadModel,
    processor: MossVLProcessor,
    examples: Dataset[Example[Tensor]],
    evaluated: Dataset[Example[Tensor]] | None = None,
) -> PackedTrainer:
    """Prepare a model for training (adapters, frozen parts, dtypes, compilation), and make its trainer.

    Raises:
        OptionError: there would be no adapter, quantized weights would be trained, or `vision_chunk` is given with
            sharded weights.
    """
    trained: Any = model
    quantized = dict(quantized_maps(model))
    if options.adapt:
        from peft import get_peft_model

        trained = get_peft_model(model, lora(model, options.parts, options.rank, options.alpha, options.dropout))
        adapter = trained.active_peft_config
        adapter.target_modules = sorted(adapter.target_modules)  # A set would be saved in another order each time.
    elif quantized:
        raise OptionError(
            f"{next(iter(quantized))} is quantized: train adapters, or the checkpoint that it was made of"
        )
    else:
        train_only(model, options.parts)
    if quantized:
        trained._ddp_params_and_buffers_to_ignore = [  # Every process has the same; DDP would send them every step.
            f"{name}.{buffer}"
            for name, module in trained.named_modules()
            if isinstance(module, QuantizedLinear)
            for buffer, _ in module.named_buffers()
        ]
    device = loading.resolve_device(options.device)
    all_float32 = device.type == "cpu" and not options.adapt  # Without autocast, weights cannot differ in dtype.
    for parameter in trained.parameters():
        if parameter.requires_grad or all_float32:  # A lower precision would round small updates away.
            parameter.data = parameter.data.float()
    states = StateTokens.find(processor.tokenizer) if options.state_loss == "focal" else None
    trainer = PackedTrainer(
        loss_of=next_tokens if states is None else StateWeighting(states, options.focal_gamma),
        model=trained,
        args=arguments_of(options, device),
        processing_class=processor,
        data_collator=Packer(processor.image_token_id, processor.image_processor.merge_size, options.vision_chunk),
        train_dataset=examples,
        eval_dataset=evaluated,
    )
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if options.vision_chunk and sharded:
        raise OptionError(
            "{vision_chunk=}: ranks with shards of the vision tower must run it equally often; "
            "leave {vision_chunk} out, and lower {max_frames} or {max_pixels} instead",
            given={"vision_chunk": options.vision_chunk, "max_frames": None, "max_pixels": None},
        )
    if device.type == "cuda":
        tower = model.model.visual
        half = tower.pos_embed.weight.dtype in (torch.bfloat16, torch.float16)  # Otherwise, autocast is faster.
        if Part.VISION not in options.parts and half and not sharded and has_triton():
            from mossvl.device.triton_vision import TritonOps

            tower.frozen_ops = TritonOps()
        if options.compile:
            if Part.SELF_ATTENTION in options.parts:
                # Otherwise only the first layer's input would need no gradient, and the layer would be compiled twice.
                model.enable_input_require_grads()
            compile_layers(model)
    return trainer


def arguments_of(options: TrainOptions, device: torch.device) -> TrainingArguments:
    gpu = device.type == "cuda"
    return TrainingArguments(
        output_dir=str(options.folder),
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
        **packed_arguments(gpu),
        use_cpu=not gpu,
        gradient_checkpointing=options.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if options.gradient_checkpointing else None,
        seed=options.seed,
        dataloader_num_workers=options.workers,
        ddp_find_unused_parameters=False,
        prediction_loss_only=True,
        label_names=["labels"],
        logging_steps=options.log_every,
        logging_first_step=True,
        save_steps=options.save_every,
        save_total_limit=options.keep,
        eval_strategy="steps" if options.eval_data else "no",
        eval_steps=options.eval_every,
    )
