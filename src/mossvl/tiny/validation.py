"""How many answers of each task are exactly right, asked again and again while a model learns."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import TrainerControl

from mossvl.processing.processor import MossVLProcessor
from mossvl.synthetic.tasks import TASKS
from mossvl.synthetic.world import Split, World
from mossvl.training.accuracy import accuracy
from mossvl.training.examples import Example
from mossvl.training.synthetic import SIZES, SyntheticPacker, encode_sample
from mossvl.training.trainer import PackedTrainer

Questions = Iterator[tuple[dict[str, Any], list[str]]]


def questions(processor: MossVLProcessor, split: Split, seed: int | str, each: int) -> Questions:
    """Packed batches, one for each size of pictures, and the task of each answer in them.

    Args:
        each: samples of each task, in all batches together.
    """
    packer = SyntheticPacker(processor.image_token_id, processor.image_processor.merge_size)
    for first, (height, width) in enumerate(SIZES):
        examples: list[Example] = []
        tasks: list[str] = []
        for task, make in TASKS.items():
            for number in range(first, each, len(SIZES)):
                sample = make(World(split, f"{seed} {task} {number}", width / height))
                examples.append(encode_sample(processor, sample, height, width))
                tasks += [task] * len(sample.turns)
        if examples:
            yield packer(examples), tasks


class TinyTrainer(PackedTrainer):
    """Its evaluation is the share of right answers for each task; every process asks questions of its own.

    Args:
        processor: makes the questions.
        each: samples of each task, for each process.
    """

    def __init__(self, *args: Any, processor: MossVLProcessor, each: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._processor, self._each = processor, each
        self._questions: list[tuple[dict[str, Any], list[str]]] = []

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        if not self._questions:
            seed = f"process {self.args.process_index}"
            self._questions = list(questions(self._processor, Split.VALIDATION, seed, self._each))
        prepared = ((self._prepare_inputs(batch), tasks) for batch, tasks in self._questions)
        answers = accuracy(self.model, prepared)
        counts = torch.tensor([answers[task] for task in TASKS], device=self.args.device)
        right, asked = self.accelerator.reduce(counts).T.tolist()
        metrics = {f"eval_{task}": r / n for task, r, n in zip(TASKS, right, asked, strict=True)}
        metrics["eval_right"] = sum(metrics.values()) / len(metrics)
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
