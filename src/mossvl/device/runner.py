"""Carries a step out: copies pages, encodes frames, runs text rows, draws tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING
from weakref import WeakMethod

import torch
from torch import Tensor

from mossvl.device.encoder import FrameEncoder
from mossvl.device.fused_products import FusedWeights
from mossvl.device.fusing import fuse
from mossvl.device.inputs import StepInputs, TextRows, to_device, vision_positions, vision_slots
from mossvl.device.paged_backend import PagedAttention
from mossvl.device.pool import PagePool, Tables, count_pages
from mossvl.device.sampler import Drawn, Sampler, likeliest
from mossvl.device.stopwatch import Stopwatch
from mossvl.device.vision_cache import VisionCache
from mossvl.model.layers import CrossAttentionLayer, TextBackend, VisionBackend
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.model.xrope import rotary
from mossvl.options.engine import EngineConfig
from mossvl.scheduling.budget import StepBudget
from mossvl.scheduling.request import Request
from mossvl.scheduling.scheduler import FrameSpan, RowSpan, Step

if TYPE_CHECKING:
    from mossvl.device.graphs import StepGraphs
    from mossvl.device.triton_backend import PromptTiles


@dataclass
class Pending:
    """A step that was launched: whose tokens it draws, and how to get at them."""

    requests: list[Request]
    drawn: Drawn
    ready: "torch.cuda.Event | None" = None

    @classmethod
    def of(cls, requests: list[Request], drawn: Drawn) -> "Pending":
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


GRAPH_SPLITS = (4, 16)
"""In how many parts the text and vision tokens are split that a captured step's tiles see: tiles are few there, and
what they see may be much."""


class Runner:
    """The model on its device, with the memory of the engine.

    Attributes:
        vision_watch: how long the last step that encoded frames took for that.
    """

    def __init__(self, model: MossVLLMHeadModel, config: EngineConfig, budget: StepBudget) -> None:
        self.model, self.config = model, config
        self.language = model.model.language_model
        text = model.config.text_config
        self.device = self.language.embed_tokens.weight.device
        dtype = self.language.norm.weight.dtype  # That of keys and values; weights may be stored in others.
        devices = [next(layer.parameters()).device for layer in self.language.layers]
        num_pages = count_pages(config, text, self.device, dtype)
        self.pool = PagePool(text, devices, dtype, num_pages, config.page_size)
        self.tables = Tables(self.pool, config.max_batch, text.max_position_embeddings, self.device)
        self.vision_cache = VisionCache(config.vision_cache)
        self.sampler = Sampler(text.vocab_size, config.max_batch, self.device)
        self.last_tokens = torch.zeros(config.max_batch + 1, dtype=torch.long, device=self.device)
        self.vision_watch: Stopwatch | None = None
        self.fast = self.device.type == "cuda" and len(set(devices)) == 1 and has_triton()
        self.graphs: StepGraphs | None = None
        graphs = not config.eager
        self.encoder = FrameEncoder(model.model, self.vision_cache, self.device, budget.patches, self.fast, graphs)
        if self.fast:
            from mossvl.device.triton_backend import KINDS

            fuse(model)
            self.weights = FusedWeights(KINDS)
            if not config.eager:
                from mossvl.device.graphs import StepGraphs

                step = WeakMethod(self._captured_step)  # Else a runner would outlive its engine until it is collected.
                self.graphs = StepGraphs(config.max_batch, self.device, lambda *given: step()(*given))  # type: ignore[misc]

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

    def recall(self, request: Request) -> None:
        """Set what a step that has failed may have changed of a request whose tokens are all known."""
        self.last_tokens[request.slot] = request.tokens[-1]
        self.sampler.forget(request)
        self.tables.forget(request)

    @torch.inference_mode()
    def launch(self, step: Step) -> Pending:
        """Begin a step → its tokens to come, which may be none."""
        for _, source, target in step.copies:
            self.pool.copy(source, target)
        if step.frames:
            self.vision_watch = Stopwatch(self.device)
            self._read(step.frames)
            self.vision_watch.stop()
        if not step.prefill and not step.decode:
            # Nothing is drawn, but the loop waits for the step all the same, so that it never runs far ahead of a GPU.
            return Pending.of([], Drawn(self.last_tokens[:0]))
        self.tables.update([*(rows.request for rows in step.prefill), *step.decode])
        requests, drawn = self._text(step.prefill, step.decode)
        return Pending.of(requests, drawn)

    # --- vision --------------------------------------------------------------------------------------------------

    def _read(self, parts: Sequence[FrameSpan]) -> None:
        """Encode frames, and write their keys and values for all cross-attention layers."""
        kept: dict[tuple[int, int], Tensor] = {}
        fresh: list[tuple[Request, int]] = []
        large: list[FrameSpan] = []
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
        parts = [part for part in parts if part.until == 1]
        if not parts:
            return
        order = [(part.request.number, frame) for part in parts for frame in range(part.start, part.stop)]
        vision = torch.cat([kept[key] for key in order])
        slots = to_device(vision_slots(parts, self.pool.page_size), self.device)
        positions = to_device(vision_positions(parts), self.device)
        rope = rotary(self.model.config.text_config, positions, vision.dtype)
        backend = self._vision_writer(slots)
        for layer in self.language.layers:
            if isinstance(layer, CrossAttentionLayer):
                device = layer.cross_attn.k_proj.weight.device
                layer.read(vision.to(device), (rope[0].to(device), rope[1].to(device)), backend)

    def _vision_writer(self, slots: Tensor) -> VisionBackend:
        """The backend that writes vision tokens' keys and values to these slots."""
        if not self.fast:
            return PagedAttention(self.pool, self.tables, vision_slots=slots)
        from mossvl.device.triton_backend import VisionWriter

        return VisionWriter(self.pool, self.weights, slots)

    # --- text ----------------------------------------------------------------------------------------------------

    def _text(self, prefill: Sequence[RowSpan], decode: Sequence[Request]) -> tuple[list[Request], Drawn]:
        """Run text rows → the requests that draw a token, and the tokens."""
        parts = [TextRows.build(prefill, decode)]
        if self.graphs is not None and prefill and decode and self.graphs.kind_of(parts[0]) is None:
            # Too much for one graph: those who decode do not wait for a prompt's kernels to be launched one by one.
            parts = [TextRows.build([], decode), TextRows.build(prefill, [])]
        requests = [request for rows in parts for request in rows.draws]
        outputs = [self._logits(rows) for rows in parts]
        logits, tokens = outputs[0] if len(outputs) == 1 else map(torch.cat, zip(*outputs, strict=True))
        if all(request.params.plain for request in requests):
            return requests, Drawn(tokens)
        drawn = self.sampler.draw(logits, requests)
        slots = torch.tensor([request.slot for request in requests])
        self.last_tokens[to_device(slots, self.device)] = drawn.tokens.clamp(min=0)
        return requests, drawn

    def _logits(self, rows: TextRows) -> tuple[Tensor, Tensor]:
        """Logits (draws, vocab) and the likeliest tokens (draws,), by a graph if one fits."""
        kind = self.graphs.kind_of(rows) if self.graphs is not None else None
        return self.graphs.run(kind, rows) if kind is not None else self._step(*self._on_device(rows))

    def _on_device(self, rows: TextRows) -> tuple[StepInputs, TextBackend]:
        """The inputs of a step that is not captured, and its backend."""
        packed = to_device(rows.packed(len(rows.tokens), nobody=self.config.max_batch), self.device)
        inputs = StepInputs.of(packed, len(rows.draws), rows.sees)
        if not self.fast:
            return inputs, PagedAttention(self.pool, self.tables, rows)
        from mossvl.device.triton_backend import in_tiles

        return inputs, self._fast_attention(inputs, in_tiles(self.pool, rows, self.device))

    def _fast_attention(self, inputs: StepInputs, prompts: "PromptTiles | None") -> TextBackend:
        from mossvl.device.triton_backend import FastAttention

        rows = inputs.slots, inputs.lengths, inputs.visible
        return FastAttention(self.pool, self.tables, self.weights, *rows, prompts)

    def _step(self, inputs: StepInputs, backend: TextBackend) -> tuple[Tensor, Tensor]:
        """Logits (draws, vocab), and the likeliest tokens (draws,), which are taken for drawn.

        Where others are drawn, `last_tokens` is corrected afterwards.
        """
        tokens = torch.where(inputs.tokens < 0, self.last_tokens[inputs.slots], inputs.tokens)
        embeds = self.language.embed_tokens(tokens)
        sees = (inputs.visible > 0)[:, None].to(embeds.dtype) if inputs.vision else None
        hidden = self.language(embeds, inputs.positions.expand(3, -1), backend, sees)
        slots = inputs.slots
        if inputs.drawing is not None:
            hidden, slots = hidden[inputs.drawing.to(hidden.device)], slots[inputs.drawing]
        (logits,) = backend.project(hidden, (self.model.lm_head,))
        logits = logits.to(self.device)
        likely = likeliest(logits)
        self.last_tokens[slots] = likely.clamp(min=0)
        return logits, likely

    def _captured_step(self, inputs: StepInputs, tiles: Tensor | None) -> tuple[Tensor, Tensor]:
        """`_step` from device tensors alone."""
        from mossvl.device.triton_backend import PromptTiles

        prompts = None if tiles is None else PromptTiles(tiles, len(inputs.tokens), *GRAPH_SPLITS)
        return self._step(inputs, self._fast_attention(inputs, prompts))

    def warm_up(self, report: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Compile kernels, and capture graphs of text, now instead of when they are first needed.

        Args:
            report: takes how many are done, and how many there are.
        """
        if self.graphs is None:
            return
        from mossvl.device.triton_backend import warm_up_prompts

        kinds = self.graphs.kinds()
        with torch.inference_mode(), torch.cuda.device(self.device):
            self.encoder.warm_up()
            warm_up_prompts(self.pool, self.tables, self.model.config.text_config.num_attention_heads)
            for done, kind in enumerate(kinds):
                report(done, len(kinds))
                self.graphs.captured(kind)
        report(len(kinds), len(kinds))


def has_triton() -> bool:
    return find_spec("triton") is not None
