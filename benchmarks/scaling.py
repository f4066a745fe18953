"""How time and memory grow with the frames of a video: first token, per token, keys and values, working memory.

    python benchmarks/scaling.py --frames 16 64 256 1024 4096
    python benchmarks/scaling.py --frames 4096 --kv-cache-dtype fp8

Random weights of the published size and frames of 448 × 448 pixels in memory, on a GPU. Kernels are compiled by answers
about few frames first; a figure is the median of `--repeats` answers, of one about 1,024 frames or more.
"""

import argparse
from statistics import median

import torch

from mossvl.bench.hardware import ceilings, describe
from mossvl.bench.measure import WARM_UPS, Bench
from mossvl.bench.prompts import RandomPrompt, Shape, random_pixels, random_weights
from mossvl.engine.engine import Engine
from mossvl.options.engine import EngineConfig
from mossvl.quantization.schemes import stored_bytes

ANSWER = 65
LONG = 1024
DISTINCT = 64
"""Frames with pixels of their own; longer videos repeat them, but the engine takes all frames for different ones."""


def shape(frames: int) -> Shape:
    return Shape(f"{frames} frames of 448 × 448", frames, 28, 28)


def prompt(bench: Bench, frames: int, pixels: list[torch.Tensor]) -> RandomPrompt:
    return RandomPrompt.new(shape(frames), bench.config, (pixels * (frames // len(pixels) + 1))[:frames])


def pages_bytes(engine: Engine, one: Shape) -> int:
    """Memory of the pages of a prompt's keys and values."""
    pool = engine.runner.executor.pool
    pages = -(-one.vision_tokens // pool.vision_page_size) + pool.groups * -(-one.text_tokens // pool.page_size)
    return pages * pool.bytes // pool.num_pages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 64, 256, 1024, 4096])
    parser.add_argument("--kv-cache-dtype", choices=["auto", "fp8"], default="auto")
    parser.add_argument("--vision-kv-cache-dtype", choices=["auto", "fp8"])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    config = EngineConfig(
        device="cuda",
        max_batch=4,
        kv_cache_dtype=given.kv_cache_dtype,
        vision_kv_cache_dtype=given.vision_kv_cache_dtype,
    )
    limits = ceilings(torch.device("cuda"))
    model, _ = random_weights("cuda", "bfloat16")
    engine = Engine(model, config)
    bench, pixels = Bench(engine, limits), random_pixels(shape(DISTINCT))
    weights, runner = stored_bytes(model), engine.runner
    print(describe(torch.device("cuda")), limits, f"keys and values: {given.kv_cache_dtype}", flush=True)
    print("| frames of 448 × 448 | first token | per token | keys and values | beside weights and pages |")
    print("|---|---|---|---|---|")
    for _ in range(WARM_UPS):
        bench.ask(prompt(bench, 16, pixels), ANSWER).wait()
    bench.ask(prompt(bench, 256, pixels), 2).wait()
    for frames in given.frames:
        torch.cuda.reset_peak_memory_stats()
        answers = [
            bench.ask(prompt(bench, frames, pixels), ANSWER).wait()
            for _ in range(1 if frames >= LONG else given.repeats)
        ]
        first = 1e3 * median(answer.timings.first_token or 0 for answer in answers)
        each = 1e3 * median(answer.timings.per_token or 0 for answer in answers)
        beside = torch.cuda.max_memory_allocated() - weights - runner.executor.pool.bytes - runner.vision_cache.bytes
        rate = bench.flops(shape(frames)) / first / 1e9
        print(
            f"| {frames} | {first:,.0f} ms ({rate:.0f} TFLOP/s) | {each:.2f} ms "
            f"| {pages_bytes(engine, shape(frames)) / 2**30:.2f} GiB | {beside / 2**30:.2f} GiB |",
            flush=True,
        )
    engine.close()


if __name__ == "__main__":
    main()
