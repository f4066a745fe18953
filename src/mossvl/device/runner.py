"""Carries out steps: copies pages, encodes frames, computes text rows, draws tokens."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic

import torch
from torch import Tensor

from mossvl.device.encoder import FrameEncoder
from mossvl.device.executor import Executor
from mossvl.device.inputs import StepArrays, TextRows, VisionRows
from mossvl.device.leading import LeadingExecutor, SharedTower
from mossvl.device.sampler import Drawn, DrawnLogprobs, Sampler
from mossvl.device.scores import Scores
from mossvl.device.stopwatch import Stopwatch
from mossvl.device.tables import TableLog
from mossvl.device.tower import Tower
from mossvl.device.vision_cache import VisionCache
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.options.engine import EngineConfig
from mossvl.parallel.ranks import LeadingRanks
from mossvl.scheduling.budget import StepBudget
from mossvl.scheduling.costs import NO_WORK, Work
from mossvl.scheduling.request import Owner, Request
from mossvl.scheduling.step import FrameSpan, Step


@dataclass
class Pending(Generic[Owner]):
    """A launched step.

    Attributes:
        requests: the requests that draw, in the order of `drawn`.
        drawn: the draws; on the host only when `ready` has happened.
        scored: requests with the rows that `scores` are of, in this order.
        scores: of prompts' tokens; on the host as the draws are; None if no rows are scored.
        ready: end of the copy from a GPU to the host; None on a CPU.
        work: of the step.
        watch: how long the step takes on the device.
    """

    requests: list[Request[Owner]]
    drawn: Drawn
    scored: list[tuple[Request[Owner], range]] = field(default_factory=list)
    scores: Scores | None = None
    ready: "torch.cuda.Event | None" = None
    work: Work = NO_WORK
    watch: Stopwatch | None = None

    def copied(self) -> "Pending[Owner]":
        """Start copying draws and scores to the host, without waiting for the copy."""
        drawn, scores = self.drawn, self.scores
        if not drawn.tokens.is_cuda:
            return self

        def to_host(tensor: Tensor) -> Tensor:
            return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)

        logprobs = None if drawn.logprobs is None else DrawnLogprobs(*map(to_host, drawn.logprobs))
        copied = Drawn(to_host(drawn.tokens), logprobs)
        scores = None if scores is None else Scores(*map(to_host, scores))
        ready = torch.cuda.Event()
        ready.record()
        return replace(self, drawn=copied, scores=scores, ready=ready)

    def wait(self) -> Drawn:
        """Wait for the draws, on the host. Raises errors of the device."""
        if self.ready is not None:
            self.ready.synchronize()
        return self.drawn

    @property
    def seconds(self) -> float | None:
        """How long the step took, once it has ended."""
        return None if self.watch is None else self.watch.seconds()


class Runner:
    """Turns steps into arrays, has the executor carry them out, and draws tokens.

    Attributes:
        executor: computes the language model over pages.
        vision_watch: how long the last encoding of frames takes; None before the first.
    """

    def __init__(self, model: MossVLLMHeadModel, config: EngineConfig, budget: StepBudget) -> None:
        self.model = model
        leading = LeadingExecutor(model, config, model.ranks) if isinstance(model.ranks, LeadingRanks) else None
        self.executor = leading or Executor(model, config)
        self.device = self.executor.device
        tables = self.executor.tables
        self.table_log = TableLog(tables.text[0].shape, tables.vision.shape[1])
        self.vision_cache = VisionCache(config.vision_cache)
        self.sampler = Sampler(model.config.text_config.vocab_size, config.max_batch, self.device)
        self.vision_watch: Stopwatch | None = None
        self._spare = math.inf
        fast, graphs = self.executor.fast, not config.eager
        kind = model.model, fast, graphs
        self.tower = SharedTower(leading, *kind) if leading else Tower(*kind, self.executor.adapters)
        self.encoder = FrameEncoder(self.tower, self.vision_cache, self.device, budget.patches)

    @property
    def overlaps(self) -> bool:
        """Whether a launched step runs while the host plans the next one."""
        return self.device.type == "cuda"

    def set_up(self) -> None:
        """Prepare the calling thread for computing."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if isinstance(self.model.ranks, LeadingRanks) and self.model.ranks.threads:
            torch.set_num_threads(self.model.ranks.threads)
        self.tower.set_up()

    def check_device(self) -> None:
        """Raise if the device has become unusable, as after an error in a kernel, or if another rank has failed."""
        self.executor.check()
        if self.device.type == "cuda":
            with self.executor.waiting():
                torch.cuda.synchronize(self.device)

    def clear(self) -> None:
        """Drop everything computed from the weights, which may have changed."""
        self.encoder.clear()

    def recall(self, request: Request[object]) -> None:
        """Restore a request's state on the device after a failed step. None of its tokens may be in flight."""
        self.executor.set_last_tokens(
            torch.tensor([request.slot]),
            torch.tensor(request.context.tokens(request.context.length - 1, request.context.length)),
        )
        self.sampler.forget(request)
        self.table_log.forget(request)

    @torch.inference_mode()
    def launch(self, step: Step[Owner]) -> Pending[Owner]:
        """Launch a step → its draws, to be waited for; there may be none."""
        watch = Stopwatch(self.device)
        pending = self._launch(step)
        watch.stop()
        return replace(pending, work=step.work, watch=watch).copied()

    def _launch(self, step: Step[Owner]) -> Pending[Owner]:
        self.encoder.give_up()
        watch = Stopwatch(self.device) if step.frames else None
        # First: a GPU encodes while the arrays are made.
        self.encoder.spare(min(step.spare, self._spare))  # Tokens of the step before wait for this launch, too.
        self._spare = step.spare
        tokens = self._compute_vision(step.frames) if step.frames else []
        arrays, requests = self._arrays(step)
        self.executor.prepare(arrays)
        self.table_log.mark_written(step.computed)
        if arrays.vision is not None:
            self.executor.store_vision(arrays.vision, torch.cat(tokens))
        if watch is not None:
            watch.stop()
            self.vision_watch = watch
        if not arrays.text:
            # The loop waits for steps without draws, too, so that it never runs far ahead of a GPU.
            return Pending([], Drawn(self.executor.last_tokens[:0]))
        drawn, scores = self._draw(requests, arrays.text)
        scored = [(rows.request, rows.scored) for rows in step.prefill if rows.scored]
        return Pending(requests, drawn, scored, scores)

    def _arrays(self, step: Step[Owner]) -> tuple[StepArrays, list[Request[Owner]]]:
        """A step as arrays, and the requests that draw, in the order of their rows."""
        whole = [part for part in step.frames if part.until == 1]
        vision = VisionRows.build(whole, self.executor.pool.vision_page_size) if whole else None
        text, requests = self._text(step)
        copies = [(source, target) for _, source, target in step.copies]
        return StepArrays(copies, self.table_log.missing(step.computed), vision, text), requests

    def _text(self, step: Step[Owner]) -> tuple[list[TextRows], list[Request[Owner]]]:
        """Text rows in one part or two, and the requests that draw, in the order of their rows."""
        if not step.prefill and not step.decode:
            return [], []
        first = [rows.request for rows in step.prefill if rows.draws]
        size = self.executor.pool.vision_page_size
        rows = TextRows.build(step.prefill, step.decode, size)
        if self.executor.graphs is None or not step.prefill or not step.decode or self.executor.is_captured(rows):
            return [rows], first + step.decode
        # No graph fits: replay the decode rows first, so that they do not wait for the launches of prefill kernels.
        parts = [TextRows.build([], step.decode, size), TextRows.build(step.prefill, [], size)]
        return parts, step.decode + first

    def can_encode(self, step: Step[Owner]) -> bool:
        """Whether all frames of a step can be encoded or read: a failed step may have evicted some from the cache."""
        frames = [(part.request, frame) for part in step.frames for frame in range(part.start, part.stop)]
        return all(frame in request.pixels or request.digests[frame] in self.vision_cache for request, frame in frames)

    # --- vision --------------------------------------------------------------------------------------------------

    def _compute_vision(self, parts: Sequence[FrameSpan[object]]) -> list[Tensor]:
        """Vision tokens of the frames that are encoded whole, in order; a large frame may be encoded in part."""
        encoded: dict[tuple[int, int], Tensor] = {}
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
                    encoded[part.request.number, frame] = tokens
        encoded |= self.encoder.encode(fresh)
        for part in large:
            tokens = self.encoder.advance(part.request, part.start, part.until)
            if tokens is not None:
                encoded[part.request.number, part.start] = tokens
        whole = [part for part in parts if part.until == 1]
        return [encoded[part.request.number, frame] for part in whole for frame in range(part.start, part.stop)]

    # --- text ----------------------------------------------------------------------------------------------------

    def _draw(self, requests: Sequence[Request[object]], text: Sequence[TextRows]) -> tuple[Drawn, Scores | None]:
        """Compute text rows, and draw a token for each of these requests; score the rows that are to be scored."""
        outputs, scores = [], None
        for rows in text:
            if rows.scored is None:
                outputs.append(self.executor.compute(rows))
            else:
                output, scores = self.executor.compute_scored(rows)
                outputs.append(output)
        parts, tokens = outputs[0] if len(outputs) == 1 else map(torch.cat, zip(*outputs, strict=True))
        if all(request.params.plain for request in requests):
            return Drawn(tokens), scores
        logits = self.executor.whole_logits(parts)
        assert logits is not None
        drawn = self.sampler.draw(logits, requests)
        self.executor.set_last_tokens(torch.tensor([request.slot for request in requests]), drawn.tokens)
        return drawn, scores

    def warm_up(self, report: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Compile kernels, and capture the graphs of text rows, before a step needs them.

        Args:
            report: called with (graphs captured, graphs in all).
        """
        if self.executor.graphs is None:
            return
        with torch.inference_mode(), torch.cuda.device(self.device):
            self.tower.warm_up()
            self.executor.warm_up(report)
