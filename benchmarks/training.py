"""How fast a model of the published size learns, on as many GPUs as this is started on.

    python benchmarks/training.py                                                              adapters, one GPU
    accelerate launch --config_file examples/fsdp2.yaml benchmarks/training.py --full          weights, several

Random weights and random examples: pictures of 448 × 448 and some text, all of whose answer is learned. Steps are
those of `mossvl train`. Told are tokens a second (text and vision tokens), the part of the GPUs' arithmetic in bfloat16
that the model itself takes (MFU; what checkpointing computes twice counts once), peak memory, how long the first step
took with its compilation, and the first loss: that of the same examples, on any number of GPUs. With `--profile`, two
more steps tell how many kernels a step launches, and how long they take.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from mossvl.checkpoints.default import CHECKPOINT
from mossvl.loading import random_model
from mossvl.model.configuration import MossVLConfig, MossVLTextConfig
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.options import MediaOptions
from mossvl.processing.image_processor import MossVLImageProcessor
from mossvl.processing.pixels import num_vision_tokens
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.video_processor import MossVLVideoProcessor
from mossvl.ranks import first_process, num_processes
from mossvl.training.examples import Example, encode
from mossvl.training.options import Part, TrainOptions
from mossvl.training.parts import part_of
from mossvl.training.run import trainer_of

PEAK = 989e12
"""Operations a second of an H100 or H200 in bfloat16, dense, by its data sheet."""
SIDE = 448
UNTIMED = 3
"""Steps at the beginning that are not timed."""
PROFILED = 2
"""Steps at the end that `--profile` adds."""


def processor() -> MossVLProcessor:
    """That of the published size, with mossvl-tiny's tokenizer."""
    tiny = MossVLProcessor.from_pretrained(CHECKPOINT)
    parts = MossVLImageProcessor(), tiny.tokenizer, MossVLVideoProcessor()
    return MossVLProcessor(*parts, chat_template=tiny.chat_template)


def example(processor: MossVLProcessor, number: int, pictures: int, words: int) -> Example:
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(256, (pictures, SIDE, SIDE, 3), generator=generator, dtype=torch.uint8)
    shown = [{"type": "image", "image": Image.fromarray(one.numpy())} for one in pixels]
    question = {"role": "user", "content": [*shown, {"type": "text", "text": "What is in the picture?"}]}
    answer = {"role": "assistant", "content": " ".join(str((number * 7 + word) % 10) for word in range(words))}
    return encode(processor, [question, answer], MediaOptions())


def operations(model: MossVLLMHeadModel, examples: list[Example], whole: bool) -> float:
    """Of all matrix products of one step, forward and backward, of a model before adapters are attached to it.

    A product of the forward pass is one of the backward pass for the gradient of its input, and one for that of its
    weights. Weights beside adapters have none; nothing of the vision tower has, as nothing before it learns.
    """
    vision = model.config.vision_config
    text = model.config.text_config
    rows = sum(len(one.input_ids) for one in examples)
    learned = sum(int((one.labels != -100).sum()) for one in examples)
    patches = sum(t * h * w for one in examples for t, h, w in one.grids)
    seen = [num_vision_tokens(one.grids, vision.spatial_merge_size) for one in examples]
    again = dict.fromkeys(Part, 2 if whole else 1) | {Part.VISION: 2 if whole else 0}
    total = 0.0
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        part = part_of(name, model.config)
        merged = patches // vision.spatial_merge_size**2
        count = {Part.VISION: patches, Part.MERGER: merged, Part.LM_HEAD: learned}.get(part, rows)
        if part == Part.CROSS_ATTENTION and ("k_proj" in name or "v_proj" in name):
            count = sum(seen)
        total += 2 * count * module.weight.numel() * (1 + again[part])
    frames = [(h * w, t) for one in examples for t, h, w in one.grids]
    inner = text.num_attention_heads * text.head_dim
    crossing = len(text.cross_attention_layers)
    total += 4 * vision.depth * vision.hidden_size * sum(n * n * t for n, t in frames) * (1 + again[Part.VISION])
    lengths = [len(one.input_ids) for one in examples]
    pairs = (text.num_hidden_layers - crossing) * sum(n * n / 2 for n in lengths)
    pairs += crossing * sum(n * v for n, v in zip(lengths, seen, strict=True))
    return total + 4 * inner * pairs * 3


class Clock(TrainerCallback):
    """Seconds of the first step and of the timed steps, and the peak memory of the latter.

    Between two timed steps nothing waits for the GPU.
    """

    def __init__(self, timed: int) -> None:
        self.timed = timed
        self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.begun = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step not in (1, UNTIMED, UNTIMED + self.timed, state.max_steps):
            return
        torch.cuda.synchronize()
        now = time.monotonic()
        if state.global_step == 1:
            self.first = now - self.begun
        if state.global_step == UNTIMED:
            torch.cuda.reset_peak_memory_stats()
            self.begun = time.monotonic()
        if state.global_step == UNTIMED + self.timed:
            self.seconds = (now - self.begun) / self.timed
            if state.max_steps > state.global_step:
                self.profiler.start()
        elif state.global_step == state.max_steps:
            self.profiler.stop()

    def kernels(self) -> dict[str, float]:
        """Of a profiled step: kernels, copies included, and the milliseconds that they take."""
        work = [one for one in self.profiler.events() or () if one.device_type == torch.autograd.DeviceType.CUDA]
        busy = sum(one.time_range.elapsed_us() for one in work)
        return {"kernels a step": len(work) / PROFILED, "ms of kernels a step": round(busy / 1e3 / PROFILED, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="weights themselves, not adapters")
    parser.add_argument("--batch", type=int, default=8, help="examples of a step, on all GPUs together")
    parser.add_argument("--pictures", type=int, default=1, help="of each example")
    parser.add_argument("--words", type=int, default=500, help="of each answer; a word is two tokens")
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--profile", action="store_true", help="count kernels")
    parser.add_argument("--layers", type=int, default=MossVLTextConfig.num_hidden_layers, help="of the language model")
    given = parser.parse_args()
    if given.batch % num_processes():
        parser.error("--batch must be a multiple of the number of GPUs")

    with tempfile.TemporaryDirectory() as folder:
        figures = measured(given, Path(folder))
    if first_process():
        print(json.dumps(figures), flush=True)


def measured(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    gpus, gpu = num_processes(), int(os.environ.get("LOCAL_RANK", 0))
    torch.cuda.set_device(gpu)
    known = processor()
    crossing = [layer for layer in MossVLTextConfig.cross_attention_layers if layer < given.layers]
    text = {"num_hidden_layers": given.layers, "cross_attention_layers": crossing}
    model = random_model(MossVLConfig(text_config=text, image_token_id=known.image_token_id), f"cuda:{gpu}", "bfloat16")
    options = TrainOptions(
        checkpoint="random",
        data=Path("none"),
        output=folder,
        adapt=not given.full,
        parts=tuple(Part) if given.full else TrainOptions.parts,
        batch=given.batch // gpus,
        max_steps=UNTIMED + given.steps + PROFILED * given.profile,
        gradient_checkpointing=given.gradient_checkpointing,
        compile=given.compile,
        log_every=10**6,
        save_every=10**6,
    )
    examples = [example(known, number, given.pictures, given.words) for number in range(given.batch)]
    work = operations(model, examples, given.full)
    parameters = sum(one.numel() for one in model.parameters())
    merge = model.config.vision_config.spatial_merge_size
    tokens = sum(len(one.input_ids) + num_vision_tokens(one.grids, merge) for one in examples)
    # One epoch, in order: with each, the loader of the examples starts anew.
    trainer = trainer_of(options, model, known, examples * options.max_steps)
    trainer.args.train_sampling_strategy = "sequential"
    trainer.args.save_strategy = SaveStrategy.NO
    trainer.args.logging_first_step = True
    clock = Clock(given.steps)
    trainer.add_callback(clock)
    trainer.train()
    seconds = clock.seconds
    return {
        "gpu": torch.cuda.get_device_name(),
        "gpus": gpus,
        **vars(given),
        "parameters": parameters,
        "tokens a step": tokens,
        "s of the first step": round(clock.first, 1),
        "ms a step": round(1e3 * seconds, 1),
        "tokens a second": round(tokens / seconds),
        "MFU": round(work / seconds / PEAK / gpus, 3),
        "peak GiB of a GPU": round(torch.cuda.max_memory_allocated() / 2**30, 1),
        **(clock.kernels() if given.profile else {}),
        "first loss": round(next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry), 5),
    }


if __name__ == "__main__":
    main()
