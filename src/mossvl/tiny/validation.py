"""Accuracy of each task on the validation split, during training."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import TrainerControl

from mossvl.evaluation import Tally
from mossvl.processing.processor import MossVLProcessor
from mossvl.synthetic.editions import FIRST, Edition
from mossvl.synthetic.tasks import tasks_of
from mossvl.synthetic.world import Split, World
from mossvl.tiny.deadline import Deadline
from mossvl.training.accuracy import accuracy
from mossvl.training.batches import Batch
from mossvl.training.examples import Example
from mossvl.training.synthetic import Pictures, SyntheticPacker, encode_sample
from mossvl.training.trainer import PackedTrainer

Questions = Iterator[tuple[Batch, list[str]]]


def questions(
    processor: MossVLProcessor, split: Split, seed: int | str, each: int, edition: Edition = FIRST
) -> Questions:
    """Yield (packed batch, task of each answer), one for each size of pictures.

    Args:
        each: samples of each task, over all batches.
    """
    packer = SyntheticPacker(processor.image_token_id, processor.image_processor.merge_size)
    for first, (height, width) in enumerate(edition.sizes):
        examples: list[Example[Pictures]] = []
        tasks: list[str] = []
        for task, make in tasks_of(edition).items():
            for number in range(first, each, len(edition.sizes)):
                frames = edition.frames_of(height, width)
                sample = make(World(split, f"{seed} {task} {number}", width / height, edition, frames))
                examples.append(encode_sample(processor, sample, height, width))
                tasks += [task] * len(sample.turns)
        if examples:
            yield packer(examples), tasks


class TinyTrainer(PackedTrainer):
    """A trainer that evaluates the accuracy of each task; every rank has questions of its own.

    Args:
        processor: encodes the questions.
        each: samples of each task, on each rank.
        edition: of the world.
    """

    def __init__(
        self, *args: Any, processor: MossVLProcessor, each: int, edition: Edition = FIRST, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._processor, self._each, self._edition = processor, each, edition
        self._questions: list[tuple[Batch, list[str]]] = []

    def end_by(self, deadline: Deadline) -> None:
        """Train until a deadline; the learning rate follows the number of steps that it allows."""
        self.add_callback(deadline)
        self.create_optimizer()
        assert self.optimizer is not None
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, deadline.rate)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        if not self._questions:
            seed = f"process {self.args.process_index}"
            asked = questions(self._processor, Split.VALIDATION, seed, self._each, self._edition)
            self._questions = list(asked)
        prepared = ((self._prepare_inputs(batch), tasks) for batch, tasks in self._questions)
        answers = accuracy(self.model, prepared)
        tasks = tasks_of(self._edition)
        counts = torch.tensor([answers[task] for task in tasks], device=self.args.device)
        everywhere = self.accelerator.reduce(counts).tolist()
        metrics = {f"eval_{task}": Tally(*both).mean for task, both in zip(tasks, everywhere, strict=True)}
        metrics["eval_right"] = sum(metrics.values()) / len(metrics)
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
