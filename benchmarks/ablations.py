"""What the ideas of the architecture are worth to mossvl-tiny: each left out, and the model trained on without it.

    python benchmarks/ablations.py --without timestamps --seed 1 --steps 600 --batch 512 --output timestamps-1.json

Begins with the package's weights, leaves out one idea (or nothing), trains for so many steps, and asks questions of the
test split. Left out are

- `timestamps`: all frames are said to be at 0.0 seconds;
- `rotation`: keys of vision tokens are not rotated by their place and time;
- `deepstack`: what the vision tower's inner layers hand to the merger is 0.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from mossvl.checkpoints.default import CHECKPOINT
from mossvl.model.interval_backend import IntervalAttention
from mossvl.model.layers import Attention
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.model.vision import Merger
from mossvl.model.vision_ops import VisionOps
from mossvl.model.xrope import Rope
from mossvl.processing.plan import MediumPlan, VideoPlan
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.prompt import PlannedPrompt
from mossvl.synthetic.world import Split
from mossvl.tiny.recipe import Recipe, Stage
from mossvl.tiny.train import trainer_of
from mossvl.tiny.validation import questions
from mossvl.training.accuracy import accuracy

IDEAS = ("nothing", "timestamps", "rotation", "deepstack")
EACH = 200
"""Samples of each task that are asked about at the end."""


class Untimed(MossVLProcessor):
    """Says that every frame is at 0.0 seconds."""

    def lay_out(self, text: str, plans: list[MediumPlan]) -> PlannedPrompt:
        untimed = [
            replace(plan, timestamps=(0.0,) * plan.num_frames) if isinstance(plan, VideoPlan) else plan
            for plan in plans
        ]
        return super().lay_out(text, untimed)


def unrotated(self: IntervalAttention, layer: int, k: Tensor, v: Tensor, attn: Attention, rope: Rope) -> None:
    self._read = attn.k_norm(k), v


def last_level(self: Merger, levels: Sequence[Tensor], ops: VisionOps) -> Tensor:
    last, *others = levels
    return original_forward(self, [last, *(torch.zeros_like(level) for level in others)], ops)


original_forward = Merger.forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without", choices=IDEAS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("needs a GPU: on a CPU, attention in training is another one than what is changed here")

    processor = (Untimed if given.without == "timestamps" else MossVLProcessor).from_pretrained(CHECKPOINT)
    if given.without == "rotation":
        IntervalAttention.store_vision = unrotated  # type: ignore[method-assign]
    if given.without == "deepstack":
        Merger.forward = last_level  # type: ignore[method-assign]
    recipe = Recipe.read()
    tasks = recipe.stages[-1].phases[-1][1]
    stage = Stage("ablation", given.seed, given.steps, 1e-3, 50, given.steps // 2, [(0, tasks)])
    recipe = replace(recipe, batch=given.batch, evaluate_every=given.steps, questions=1, stages=[stage])
    model = MossVLLMHeadModel.from_pretrained(CHECKPOINT, dtype=torch.float32)
    with TemporaryDirectory() as folder:
        trainer = trainer_of(recipe, stage, model, processor, Path(folder))
        trainer.train()
        asked = questions(processor, Split.TEST, f"ablations {given.seed}", EACH)
        answers = accuracy(trainer.model, ((trainer._prepare_inputs(batch), names) for batch, names in asked))
    figures = {task: right / count for task, (right, count) in answers.items()}
    given.output.write_text(json.dumps({"without": given.without, "seed": given.seed, **figures}) + "\n")


if __name__ == "__main__":
    main()
