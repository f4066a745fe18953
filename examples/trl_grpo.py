"""GRPO with TRL on drawn pictures: the reward is 1 for an answer with the picture's colour.

pip install trl
python examples/trl_grpo.py runs/grpo [CHECKPOINT]
"""

import sys

import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import GRPOConfig, GRPOTrainer

from mossvl.checkpoints.default import CHECKPOINT  # `import mossvl` registers the model with the Auto classes

COLOURS = ["red", "blue", "green", "yellow"]


def right(completions: list[list[dict[str, str]]], colour: list[str], **_: object) -> list[float]:
    """The reward of each completion."""
    return [float(name in said[0]["content"].lower()) for said, name in zip(completions, colour, strict=True)]


def main(output: str, checkpoint: str) -> None:
    data = Dataset.from_dict(
        {
            "images": [[Image.new("RGB", (64, 64), name)] for name in COLOURS],
            "prompt": [[{"role": "user", "content": "Which colour is this?"}] for _ in COLOURS],
            "colour": COLOURS,
        }
    )
    trainer = GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(checkpoint),
        processing_class=AutoProcessor.from_pretrained(checkpoint),
        reward_funcs=right,
        train_dataset=data,
        args=GRPOConfig(
            output,
            max_steps=10,
            num_generations=8,
            max_completion_length=16,
            logging_steps=1,
            report_to="none",
            bf16=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
        ),
    )
    trainer.train()
    trainer.save_model(output)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else str(CHECKPOINT))
