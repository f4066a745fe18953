"""Train mossvl-tiny from scratch: `python -m mossvl.tiny.train runs/tiny`, or under torchrun on several GPUs.

Each stage of the recipe has a folder. Once the stage is through, its weights are in `model` there; where `--seconds`
stopped it, a checkpoint is, from which the next call goes on. After the last stage, the folder `checkpoint` is what the
package holds: weights in bfloat16, and a processor.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import TrainingArguments, set_seed

from mossvl.checkpoints.default import CHECKPOINT
from mossvl.model.layers import CrossAttentionLayer
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.processes import first_process
from mossvl.processing.processor import MossVLProcessor
from mossvl.synthetic.world import Split
from mossvl.tiny.recipe import Recipe, Stage
from mossvl.tiny.validation import TinyTrainer
from mossvl.training.checkpoints import resumable
from mossvl.training.synthetic import SyntheticExamples, SyntheticPacker
from mossvl.training.trainer import (
    UNFINISHED,
    StopAfter,
    compile_layers,
    finish,
    packed_arguments,
    workers,
    written_whole,
)

WEIGHTS = "model"
OPEN_GATE = 1.0
"""Where gates begin. Closed, as where a finished language model learns to see, they would let nothing through."""


def untrained(seed: int) -> MossVLLMHeadModel:
    """Random weights, gates open."""
    set_seed(seed)
    model = MossVLLMHeadModel(MossVLLMHeadModel.config_class.from_pretrained(CHECKPOINT))
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, CrossAttentionLayer):
                layer.cross_attn_attn_gate.fill_(OPEN_GATE)
                layer.cross_attn_mlp_gate.fill_(OPEN_GATE)
    return model


def train_stage(recipe: Recipe, number: int, folder: Path, seconds: float | None) -> bool:
    """Go on with a stage, or begin it; False if it stopped for want of time."""
    stage = recipe.stages[number]
    out = folder / stage.name
    model = (
        MossVLLMHeadModel.from_pretrained(folder / recipe.stages[number - 1].name / WEIGHTS, dtype=torch.float32)
        if number
        else untrained(stage.seed)
    )
    trainer = trainer_of(recipe, stage, model, MossVLProcessor.from_pretrained(CHECKPOINT), out)
    if seconds:
        trainer.add_callback(StopAfter(seconds))
    last = resumable(out)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    through = trainer.state.global_step >= stage.steps
    if through:
        trainer.save_whole(WEIGHTS)
    return through


def trainer_of(
    recipe: Recipe, stage: Stage, model: MossVLLMHeadModel, processor: MossVLProcessor, out: Path
) -> TinyTrainer:
    """The loop of a stage; its checkpoints go to `out`."""
    arguments = training_arguments(recipe, stage, out)
    batch = recipe.batch * arguments.world_size
    examples = SyntheticExamples(
        processor, Split.TRAIN, stage.seed, stage.steps * batch, stage.examples(batch), run=recipe.batch
    )
    if torch.cuda.is_available():
        compile_layers(model)
    return TinyTrainer(
        processor=processor,
        each=recipe.questions,
        model=model,
        args=arguments,
        data_collator=SyntheticPacker(model.config.image_token_id, model.config.vision_config.spatial_merge_size),
        train_dataset=examples,
        eval_dataset=examples,  # not looked at: questions are made as `TinyTrainer` asks them
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
        dataloader_num_workers=workers(),
        dataloader_prefetch_factor=4,
        ddp_find_unused_parameters=False,
        logging_steps=50,
        eval_strategy="steps",
        eval_steps=recipe.evaluate_every,
        save_strategy="no",
        disable_tqdm=True,
    )


def main(
    folder: Annotated[Path, typer.Argument(help="Where the stages' folders are, or will be.")],
    recipe: Annotated[Path | None, typer.Option(help="Another recipe than the package's.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop after so many seconds; the next call goes on.")] = None,
) -> None:
    """Train all stages that are not yet through."""
    steps = Recipe.read(recipe) if recipe else Recipe.read()
    for number, stage in enumerate(steps.stages):
        if not (folder / stage.name / WEIGHTS).exists() and not train_stage(steps, number, folder, seconds):
            return
    if first_process() and not (folder / CHECKPOINT.name).exists():
        with written_whole(folder / UNFINISHED, str(folder / CHECKPOINT.name)):
            written = folder / UNFINISHED / CHECKPOINT.name
            model = MossVLLMHeadModel.from_pretrained(folder / stage.name / WEIGHTS, dtype=torch.bfloat16)
            model.save_pretrained(written)
            MossVLProcessor.from_pretrained(CHECKPOINT).save_pretrained(written)
            finish(written, folder / CHECKPOINT.name)


if __name__ == "__main__":
    typer.run(main)
