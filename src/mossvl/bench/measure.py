"""The benchmarks: one method for each table, which yields rows of figures."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from mossvl.bench.hardware import milliseconds
from mossvl.bench.pictures import PictureLoad, bench_processor, changed, noise, query_of
from mossvl.bench.prompts import IMAGE, SMALL_IMAGE, VIDEO_64, VIDEO_256, RandomPrompt, Shape, random_pixels
from mossvl.engine.engine import Engine
from mossvl.model.layers import CrossAttentionLayer
from mossvl.options import GenerationOptions
from mossvl.quantization.schemes import num_weights, stored_bytes
from mossvl.queries.handle import Handle
from mossvl.queries.results import Result

ANSWER = 129
"""Tokens of an answer: the first token, and 128 decoding steps."""
WARM_UPS = 6
"""Unmeasured runs, in which kernels are compiled and CUDA graphs captured (the vision tower's by the fifth batch)."""
VIDEOS, VIDEO_ANSWER = 32, 65
"""Videos at once, and tokens of the answer to each."""


@dataclass(frozen=True)
class Row:
    """A figure.

    Attributes:
        value: in `unit`.
        all: every measurement, in `unit`.
        note: achieved rates and the like.
        statistic: what `value` is of all measurements.
    """

    name: str
    value: float
    unit: str
    all: list[float]
    note: str = ""
    statistic: str = "median"


def stamp(times: list[float]) -> None:
    """Append the current time."""
    times.append(time.perf_counter())


class Bench:
    """Benchmarks of one engine.

    Args:
        ceilings: of `hardware.ceilings`.
        repeats: measurements of each figure.
    """

    def __init__(self, engine: Engine, ceilings: dict[str, float], repeats: int = 5) -> None:
        self.engine, self.ceilings, self.repeats = engine, ceilings, repeats
        self.config = engine.model.config
        self._pixels: dict[Shape, list[torch.Tensor]] = {}

    def prompt(self, shape: Shape) -> RandomPrompt:
        if shape not in self._pixels:
            self._pixels[shape] = random_pixels(shape)
        return RandomPrompt.new(shape, self.config, self._pixels[shape])

    def ask(self, prompt: RandomPrompt, tokens: int = ANSWER) -> Handle:
        options = GenerationOptions(max_new_tokens=tokens, ignore_eos=True)
        return self.engine.begin(prompt, options)

    def answer(self, shape: Shape, tokens: int = ANSWER) -> Result:
        """Ask a new prompt and wait for the answer."""
        return self.ask(self.prompt(shape), tokens).wait()

    def _repeat(self, measure: Callable[..., Any], *given: Any, warm_ups: int = WARM_UPS) -> list[Any]:
        for _ in range(warm_ups):
            measure(*given)
        return [measure(*given) for _ in range(self.repeats)]

    # --- one request ---------------------------------------------------------------------------------------------

    def latency(self) -> Iterator[Row]:
        for shape in (IMAGE, VIDEO_64, VIDEO_256):
            results = self._repeat(self.answer, shape)
            first = [1e3 * result.timings.first_token for result in results]
            yield Row(
                f"{shape.name}: first token", median(first), "ms", first, self._prefill_note(shape, median(first))
            )
            each = [1e3 * result.timings.per_token for result in results]
            yield Row(
                f"{shape.name}: per output token", median(each), "ms", each, self._decode_note(shape, median(each))
            )
        yield self.second_question()
        yield from self.from_pictures()
        yield self.memory()
        yield self.beside_a_video()

    def second_question(self) -> Row:
        """Measure time to first token of another question about a cached video."""
        prompt = self.prompt(VIDEO_256)
        self.ask(prompt, 1).wait()
        results = self._repeat(lambda: self.ask(prompt.again(), 1).wait())
        times = [1e3 * result.timings.first_token for result in results]
        cached = results[-1].usage.cached_tokens
        return Row(f"{VIDEO_256.name}: second question", median(times), "ms", times, f"{cached} tokens cached")

    def from_pictures(self) -> Iterator[Row]:
        """Measure time to first token from Pillow images in memory, and of another question about the same ones."""
        processor = bench_processor()
        for shape in (IMAGE, VIDEO_64, VIDEO_256):
            size = processor.image_processor.patch_size
            pictures = noise(shape.frames, size * shape.rows, size * shape.columns)
            query = query_of(*pictures) if shape.frames == 1 else query_of(pictures)
            source = partial(PictureLoad, query, processor, self.engine.media_memory, self.engine.media_budget)

            def first_token(source: Any = source, shape: Shape = shape) -> float:
                options = GenerationOptions(max_new_tokens=1, ignore_eos=True)
                return 1e3 * (self.engine.begin(source(shape, self.config), options).wait().timings.first_token or 0)

            firsts, seconds = [], []
            for number in range(WARM_UPS + self.repeats):
                changed(pictures, number)
                firsts.append(first_token())
                seconds.append(first_token())
            for name, times in (("first token", firsts[WARM_UPS:]), ("second question", seconds[WARM_UPS:])):
                yield Row(f"{shape.name} as Pillow images in memory: {name}", median(times), "ms", times)

    def memory(self) -> Row:
        """Measure peak memory beyond weights, pages and the vision cache, during an answer about a long video."""
        runner = self.engine.runner
        torch.cuda.reset_peak_memory_stats()
        self.ask(self.prompt(VIDEO_256), 8).wait()
        weights = stored_bytes(self.engine.model)
        pools = runner.executor.pool.bytes + runner.vision_cache.bytes
        beside = (torch.cuda.max_memory_allocated() - weights - pools) / 2**30
        return Row(f"{VIDEO_256.name}: memory outside weights and pools", beside, "GiB", [beside])

    def beside_a_video(self) -> Row:
        """Measure the longest inter-token latency during another request's vision encoding and prefill."""
        ratios = []
        for _ in range(3):
            times: list[float] = []
            handle = self.ask(self.prompt(IMAGE), 4000)
            handle.listen(partial(stamp, times))
            while len(times) < 100 and not handle.ended:
                time.sleep(0.01)
            begun = len(times)
            video = self.ask(self.prompt(VIDEO_256), 1)
            video.wait()
            ended = len(times)
            handle.cancel()
            handle.wait()
            gaps = [later - earlier for earlier, later in pairwise(times)]
            usual, during = median(gaps[20:begun]), gaps[begun : ended - 1]
            ratios.append(max(during) / usual)
            beside, mean = len(during), sum(during) / len(during)
        ratios = ratios[1:]  # The first run compiles kernels and captures graphs.
        note = f"usual {1e3 * usual:.2f} ms, {beside} steps beside it of {1e3 * mean:.1f} ms on average"
        return Row("longest step beside a video's prefill", max(ratios), "× the usual", ratios, note)

    # --- many requests -------------------------------------------------------------------------------------------

    def throughput(self) -> Iterator[Row]:
        for count in (32, 64, 256):
            runs = self._repeat(self._together, count)
            rates = [rate for rate, _ in runs]
            steps = [1e3 * step for _, step in runs]
            yield Row(f"{count} requests, {SMALL_IMAGE.name}: output", median(rates), "tokens/s", rates)
            gpu, note = self._step_on_gpu(count), ""
            if gpu is not None:
                note = f"of which the GPU computes {gpu:.2f} ms; {100 * (1 - gpu / median(steps)):.0f} % beside it"
            yield Row(f"{count} requests, {SMALL_IMAGE.name}: step", median(steps), "ms", steps, note)
        yield from self.videos()

    def videos(self) -> Iterator[Row]:
        """Measure many videos at once: videos per second, and the longest gap between two tokens of an answer."""
        runs = self._repeat(self._videos_together, warm_ups=2)
        rates, gaps = ([run[index] for run in runs] for index in range(2))
        frames = f"{VIDEO_64.frames * median(rates):.0f} frames/s"
        name = f"{VIDEOS} videos at once, {VIDEO_64.name}, {VIDEO_ANSWER} tokens each"
        yield Row(name, median(rates), "videos/s", rates, frames)
        note = f"to be kept below {1e3 * self.engine.config.max_token_gap:.0f} ms"
        yield Row("… longest gap between tokens", max(gaps), "ms", gaps, note)

    def _videos_together(self) -> tuple[float, float]:
        """Return videos per second, and the longest gap between two tokens in ms."""
        begun = time.perf_counter()
        handles = [self.ask(self.prompt(VIDEO_64), VIDEO_ANSWER) for _ in range(VIDEOS)]
        for handle in handles:
            handle.wait()
        seconds = time.perf_counter() - begun
        gaps = (1e3 * (later - earlier) for one in handles for earlier, later in pairwise(one.drafts[0].times))
        return VIDEOS / seconds, max(gaps)

    def alone(self, count: int) -> list[float]:
        """Return output tokens per second of `count` concurrent requests, of each measurement."""
        return [rate for rate, _ in self._repeat(self._together, count)]

    def _together(self, count: int) -> tuple[float, float]:
        """Return (output tokens per second, seconds per step while all decode) of `count` concurrent requests."""
        begun = time.perf_counter()
        handles = [self.ask(self.prompt(SMALL_IMAGE)) for _ in range(count)]
        results = [handle.wait() for handle in handles]
        seconds = time.perf_counter() - begun
        return count * ANSWER / seconds, min(result.timings.per_token or 0 for result in results)

    def _step_on_gpu(self, count: int) -> float | None:
        """Return the GPU time in ms of a decoding step's CUDA graph, with the inputs of the last step.

        None without graphs, and for a model that is cut: each rank has a graph of its own, and it waits for the others.
        """
        graphs = self.engine.runner.executor.graphs
        if graphs is None or self.engine.model.ranks is not None:
            return None
        with torch.inference_mode():
            graph, _ = graphs.captured(graphs.decode_kind(count, vision=True))
            took = milliseconds(graph.replay, repeats=20)
        self.engine.clear_caches()  # The replays overwrote pages of the last step.
        return took

    # --- prompts -------------------------------------------------------------------------------------------------

    def prefill(self) -> Iterator[Row]:
        for shape in (IMAGE, VIDEO_64, VIDEO_256):
            results = self._repeat(self.answer, shape, 1)
            vision = [1e3 * result.timings.vision for result in results]
            total = [1e3 * result.timings.first_token for result in results]
            yield Row(f"{shape.name}: prompt", median(total), "ms", total, self._prefill_note(shape, median(total)))
            rate = shape.patches / median(total) * 1e3
            yield Row(f"{shape.name}: patches", rate, "patches/s", [shape.patches / ms * 1e3 for ms in total])
            yield Row(f"{shape.name}: of it, encoding of frames", median(vision), "ms", vision)

    # --- rates ---------------------------------------------------------------------------------------------------

    def _decode_note(self, shape: Shape, milliseconds_: float) -> str:
        text = self.engine.model.model.language_model.config  # Of this rank's part: rates are those of one GPU.
        kv = 2 * text.num_key_value_heads * text.head_dim * 2
        crossing = len(text.cross_attention_layers)
        own = text.num_hidden_layers - crossing
        read = self.weight_bytes + crossing * kv * shape.vision_tokens + own * kv * (shape.text_tokens + ANSWER // 2)
        rate = read / milliseconds_ * 1e3
        return f"{rate / 1e12:.2f} TB/s, {100 * rate / self.ceilings['bytes_per_second']:.0f} % of a copy"

    def _prefill_note(self, shape: Shape, milliseconds_: float) -> str:
        rate = self.flops(shape) / milliseconds_ * 1e3
        return f"{rate / 1e12:.0f} TFLOP/s, {100 * rate / self.ceilings['flops_per_second']:.0f} % of a product"

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a decoding step reads: the decoder's layers and the head."""
        model = self.engine.model
        layers = model.model.language_model.layers
        # Keys and values of vision tokens are cached, not projected again.
        crossing = [layer.cross_attn for layer in layers if isinstance(layer, CrossAttentionLayer)]
        unread = sum(stored_bytes(attn.k_proj) + stored_bytes(attn.v_proj) for attn in crossing)
        return stored_bytes(layers) + stored_bytes(model.lm_head) - unread

    def flops(self, shape: Shape) -> float:
        """Return the floating-point operations of a prefill: weight products, and attention to visible tokens.

        Of a model that is cut, those of one rank.
        """
        ranks = self.engine.model.ranks
        text, vision = self.engine.model.model.language_model.config, self.config.vision_config
        side = vision.hidden_size * (4 * vision.hidden_size + 2 * vision.intermediate_size)
        merged = 4 * vision.hidden_size * (1 + len(vision.deepstack_visual_indexes))
        frame = shape.rows * shape.columns
        tower = 2 * shape.patches * vision.depth * side + shape.patches // 4 * 2 * merged * (merged + text.hidden_size)
        tower += 4 * shape.frames * frame**2 * vision.hidden_size * vision.depth
        crossing, heads = len(text.cross_attention_layers), text.num_attention_heads * text.head_dim
        keys = 2 * text.num_key_value_heads * text.head_dim * text.hidden_size
        read = 2 * shape.vision_tokens * crossing * keys
        rows = 2 * shape.text_tokens * (num_weights(self.engine.model.model.language_model.layers) - crossing * keys)
        seen = shape.vision_tokens * (shape.text_tokens / 2 if shape.frames > 1 else shape.text_tokens)
        attention = 4 * heads * (crossing * seen + (text.num_hidden_layers - crossing) * shape.text_tokens**2 / 2)
        return tower / (1 if ranks is None else ranks.share.size) + read + rows + attention
