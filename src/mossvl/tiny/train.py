"""Train mossvl-tiny from scratch: `python -m mossvl.tiny.train runs/tiny`, or under torchrun on several GPUs.

Each stage of the recipe has a folder. A finished stage leaves its weights in `model`; a stage that `--seconds` stopped
leaves a checkpoint, from which the next call resumes. The last stage writes the folder `checkpoint` that the package
ships: weights in bfloat16, and a processor. `--within` ends that stage in time, with as many steps as that allows.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import TrainerCallback, TrainingArguments, set_seed

from mossvl.checkpoints.default import CHECKPOINT
from mossvl.disk import finish
from mossvl.model.layers import CrossAttentionLayer
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.processing.processor import MossVLProcessor
from mossvl.ranks import first_process
from mossvl.synthetic.editions import EDITIONS
from mossvl.synthetic.world import Split
from mossvl.tiny.architecture import processor_of
from mossvl.tiny.deadline import Deadline
from mossvl.tiny.profile import Profile
from mossvl.tiny.recipe import Recipe, Stage
from mossvl.tiny.validation import TinyTrainer
from mossvl.training.checkpoints import resumable
from mossvl.training.synthetic import SyntheticExamples, SyntheticPacker
from mossvl.training.trainer import (
    UNFINISHED,
    StopAfter,
    compile_layers,
    packed_arguments,
    written_whole,
)
from mossvl.training.workers import num_workers

WEIGHTS = "model"
OPEN_GATE = 1.0
"""Initial value of gates. Closed gates (0), right for a pretrained language model, would pass no vision here."""


def untrained(seed: int) -> MossVLLMHeadModel:
    """Return a model of random weights and open gates."""
    set_seed(seed)
    model = MossVLLMHeadModel(MossVLLMHeadModel.config_class.from_pretrained(CHECKPOINT))
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, CrossAttentionLayer):
                layer.cross_attn_attn_gate.fill_(OPEN_GATE)
                layer.cross_attn_mlp_gate.fill_(OPEN_GATE)
    return model


def started(recipe: Recipe) -> MossVLLMHeadModel:
    """Return the model with which a recipe's first stage begins."""
    if recipe.start == "random":
        return untrained(recipe.stages[0].seed)
    folder = CHECKPOINT if recipe.start == "package" else recipe.start
    return MossVLLMHeadModel.from_pretrained(folder, dtype=torch.float32)


def processor_for(recipe: Recipe) -> MossVLProcessor:
    """Return the processor of a recipe's checkpoint: the package's tokenizer, and the sizes of the edition."""
    processor = MossVLProcessor.from_pretrained(CHECKPOINT)
    return processor if recipe.edition == "first" else processor_of(processor.tokenizer, EDITIONS[recipe.edition])


def train_stage(
    recipe: Recipe,
    number: int,
    folder: Path,
    seconds: float | None,
    deadline: Deadline | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> bool:
    """Begin or resume a stage; False if `seconds` ended the run before the stage was finished."""
    stage = recipe.stages[number]
    out = folder / stage.name
    model = (
        MossVLLMHeadModel.from_pretrained(folder / recipe.stages[number - 1].name / WEIGHTS, dtype=torch.float32)
        if number
        else started(recipe)
    )
    trainer = trainer_of(recipe, stage, model, processor_for(recipe), out)
    if seconds:
        trainer.add_callback(StopAfter(seconds))
    if deadline:
        trainer.end_by(deadline)
    for callback in callbacks:
        trainer.add_callback(callback)
    last = resumable(out)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    finished = trainer.state.global_step >= min(stage.steps, trainer.state.max_steps)
    if finished:
        trainer.save_whole(WEIGHTS)
    return finished


def trainer_of(
    recipe: Recipe, stage: Stage, model: MossVLLMHeadModel, processor: MossVLProcessor, out: Path
) -> TinyTrainer:
    """Return the trainer of a stage, which writes checkpoints to `out`."""
    arguments = training_arguments(recipe, stage, out)
    batch = recipe.batch * arguments.world_size
    examples = SyntheticExamples(
        processor,
        Split.TRAIN,
        stage.seed,
        stage.steps * batch,
        stage.examples(batch),
        run=recipe.same_size or recipe.batch,
        edition=EDITIONS[recipe.edition],
    )
    if torch.cuda.is_available():
        compile_layers(model)
    return TinyTrainer(
        processor=processor,
        each=recipe.questions,
        edition=EDITIONS[recipe.edition],
        model=model,
        args=arguments,
        data_collator=SyntheticPacker(model.config.image_token_id, model.config.vision_config.spatial_merge_size),
        train_dataset=examples,
        eval_dataset=examples,  # required, but unused: `TinyTrainer` makes questions
    )


def training_arguments(recipe: Recipe, stage: Stage, out: Path) -> TrainingArguments:
    gpu = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(out),
        max_steps=stage.steps,
        per_device_train_batch_size=recipe.batch,
        learning_rate=stage.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        warmup_steps=stage.warmup,
        lr_scheduler_kwargs={"num_decay_steps": stage.decay},
        weight_decay=recipe.weight_decay,
        adam_beta2=recipe.adam_beta2,
        optim="adamw_torch_fused",
        **packed_arguments(gpu),
        seed=stage.seed,
        train_sampling_strategy="sequential",
        dataloader_num_workers=num_workers(),
        dataloader_prefetch_factor=4,
        ddp_find_unused_parameters=False,
        logging_steps=50,
        eval_strategy="steps",
        eval_steps=recipe.evaluate_every,
        save_strategy="no",
        disable_tqdm=True,
    )


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the stages' folders.")],
    recipe: Annotated[Path | None, typer.Option(help="Recipe instead of the package's.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop after this time; the next call resumes.")] = None,
    within: Annotated[
        float | None, typer.Option(help="Finish the last stage in this time, from now on, with fewer steps if need be.")
    ] = None,
    profile: Annotated[Path | None, typer.Option(help="Write here where the time of some steps goes.")] = None,
) -> None:
    """Train all unfinished stages."""
    begun = time.monotonic()
    steps = Recipe.read(recipe) if recipe else Recipe.read()
    for number, stage in enumerate(steps.stages):
        deadline = Deadline.of(stage, begun + within) if within and stage is steps.stages[-1] else None
        if (folder / stage.name / WEIGHTS).exists():
            continue
        callbacks = [Profile(profile)] if profile and first_process() else []
        if not train_stage(steps, number, folder, seconds, deadline, callbacks):
            return
    if first_process() and not (folder / CHECKPOINT.name).exists():
        with written_whole(folder / UNFINISHED, str(folder / CHECKPOINT.name)):
            written = folder / UNFINISHED / CHECKPOINT.name
            model = MossVLLMHeadModel.from_pretrained(folder / stage.name / WEIGHTS, dtype=torch.bfloat16)
            model.save_pretrained(written)
            processor_for(steps).save_pretrained(written)
            finish(written, folder / CHECKPOINT.name)


if __name__ == "__main__":
    typer.run(main)
