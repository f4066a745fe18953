"""Carries a step out: copies pages, encodes frames, runs text rows, draws tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from mossvl.device.encoder import FrameEncoder
from mossvl.device.executor import Executor
from mossvl.device.inputs import StepArrays, TextRows, VisionRows
from mossvl.device.sampler import Drawn, Sampler
from mossvl.device.stopwatch import Stopwatch
from mossvl.device.tables import TableLog
from mossvl.device.vision_cache import VisionCache
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.options.engine import EngineConfig
from mossvl.scheduling.budget import StepBudget
from mossvl.scheduling.request import Owner, Request
from mossvl.scheduling.step import FrameSpan, Step


@dataclass
class Pending(Generic[Owner]):
    """A step that was launched: whose tokens it draws, and how to get at them."""

    requests: list[Request[Owner]]
    drawn: Drawn
    ready: "torch.cuda.Event | None" = None

    @classmethod
    def of(cls, requests: list[Request[Owner]], drawn: Drawn) -> "Pending[Owner]":
        """Start the copy of what is drawn to the host; nothing waits for it."""
        if not drawn.tokens.is_cuda:
            return cls(requests, drawn)

        def to_host(tensor: Tensor) -> Tensor:
            return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)

        logprobs = None if drawn.logprobs is None else tuple(map(to_host, drawn.logprobs))
        copied = Drawn(to_host(drawn.tokens), logprobs)  # type: ignore[arg-type]
        ready = torch.cuda.Event()
        ready.record()
        return cls(requests, copied, ready)

    def wait(self) -> Drawn:
        """What was drawn, on the host; raises what went wrong on the device."""
        if self.ready is not None:
            self.ready.synchronize()
        return self.drawn


class Runner:
    """Makes arrays of steps, has them carried out, and draws tokens.

    Attributes:
        executor: computes the language model over pages.
        vision_watch: how long the last step that encoded frames took for that.
    """

    def __init__(self, model: MossVLLMHeadModel, config: EngineConfig, budget: StepBudget) -> None:
        self.model = model
        self.executor = Executor(model, config)
        self.device = self.executor.device
        tables = self.executor.tables
        self.table_log = TableLog(tables.text[0].shape, tables.vision.shape[1])
        self.vision_cache = VisionCache(config.vision_cache)
        self.sampler = Sampler(model.config.text_config.vocab_size, config.max_batch, self.device)
        self.vision_watch: Stopwatch | None = None
        fast, graphs = self.executor.fast, not config.eager
        self.encoder = FrameEncoder(model.model, self.vision_cache, self.device, budget.patches, fast, graphs)

    @property
    def overlaps(self) -> bool:
        """Whether a step runs beside the next one's preparation."""
        return self.device.type == "cuda"

    def set_up(self) -> None:
        """Make the calling thread ready to compute."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self.encoder.set_up()

    def check_device(self) -> None:
        """Raises if the device is of no use any more, as after an error in a kernel."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def clear(self) -> None:
        """Forget what was computed with weights that may have changed."""
        self.encoder.clear()

    def recall(self, request: Request[object]) -> None:
        """Set what a step that has failed may have changed of a request whose tokens are all known."""
        self.executor.drawn(
            torch.tensor([request.slot]),
            torch.tensor(request.context.tokens(request.context.length - 1, request.context.length)),
        )
        self.sampler.forget(request)
        self.table_log.forget(request)

    @torch.inference_mode()
    def launch(self, step: Step[Owner]) -> Pending[Owner]:
        """Begin a step → its tokens to come, which may be none."""
        self.encoder.give_up()
        arrays, requests = self._arrays(step)
        self.executor.prepare(arrays)
        self.table_log.written(step.computed)
        if step.frames:
            self.vision_watch = Stopwatch(self.device)
            self._read(step.frames, arrays.vision)
            self.vision_watch.stop()
        if not arrays.text:
            # Nothing is drawn, but the loop waits for the step all the same, so that it never runs far ahead of a GPU.
            return Pending.of([], Drawn(self.executor.last_tokens[:0]))
        return Pending.of(requests, self._draw(requests, arrays.text))

    def _arrays(self, step: Step[Owner]) -> tuple[StepArrays, list[Request[Owner]]]:
        """A step as arrays, and the requests that draw in it, in the order of the rows that they draw from."""
        whole = [part for part in step.frames if part.until == 1]
        vision = VisionRows.build(whole, self.executor.pool.page_size) if whole else None
        text, requests = self._text(step)
        copies = [(source, target) for _, source, target in step.copies]
        return StepArrays(copies, self.table_log.missing(step.computed), vision, text), requests

    def _text(self, step: Step[Owner]) -> tuple[list[TextRows], list[Request[Owner]]]:
        """Text rows in one part or two, and the requests that draw, in their order."""
        if not step.prefill and not step.decode:
            return [], []
        first = [rows.request for rows in step.prefill if rows.draws]
        rows = TextRows.build(step.prefill, step.decode)
        if self.executor.graphs is None or not step.prefill or not step.decode or self.executor.is_captured(rows):
            return [rows], first + step.decode
        # Too much for one graph: those who decode do not wait for a prompt's kernels to be launched one by one.
        return [TextRows.build([], step.decode), TextRows.build(step.prefill, [])], step.decode + first

    # --- vision --------------------------------------------------------------------------------------------------

    def _read(self, parts: Sequence[FrameSpan[object]], rows: VisionRows | None) -> None:
        """Encode frames, and write keys and values of those that are whole."""
        tokens = self._encode(parts)
        if rows is not None:
            self.executor.read(rows, torch.cat(tokens))

    def _encode(self, parts: Sequence[FrameSpan[object]]) -> list[Tensor]:
        """Vision tokens of each frame that is whole, in their order; of a large frame, only a part may be encoded."""
        kept: dict[tuple[int, int], Tensor] = {}
        fresh: list[tuple[Request[object], int]] = []
        large: list[FrameSpan[object]] = []
        for part in parts:
            for frame in range(part.start, part.stop):
                tokens = self.vision_cache.get(part.request.digests[frame])
                if tokens is None and frame == part.start and (part.request.partly or part.until < 1):
                    large.append(part)
                elif tokens is None:
                    fresh.append((part.request, frame))
                else:
                    kept[part.request.number, frame] = tokens
        kept |= self.encoder.encode(fresh)
        for part in large:
            tokens = self.encoder.advance(part.request, part.start, part.until)
            if tokens is not None:
                kept[part.request.number, part.start] = tokens
        whole = [part for part in parts if part.until == 1]
        return [kept[part.request.number, frame] for part in whole for frame in range(part.start, part.stop)]

    # --- text ----------------------------------------------------------------------------------------------------

    def _draw(self, requests: Sequence[Request[object]], text: Sequence[TextRows]) -> Drawn:
        """Compute text rows, and draw a token for each of these requests."""
        outputs = [self.executor.compute(rows) for rows in text]
        logits, tokens = outputs[0] if len(outputs) == 1 else map(torch.cat, zip(*outputs, strict=True))
        if all(request.params.plain for request in requests):
            return Drawn(tokens)
        drawn = self.sampler.draw(logits, requests)
        self.executor.drawn(torch.tensor([request.slot for request in requests]), drawn.tokens)
        return drawn

    def warm_up(self, report: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Compile kernels, and capture graphs of text, now instead of when they are first needed.

        Args:
            report: takes how many are done, and how many there are.
        """
        if self.executor.graphs is None:
            return
        with torch.inference_mode(), torch.cuda.device(self.device):
            self.encoder.warm_up()
            self.executor.warm_up(report)
