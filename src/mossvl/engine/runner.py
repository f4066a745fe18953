"""Carries a plan out: copies pages, encodes frames, runs text rows, draws tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from mossvl.engine.attention import PagedAttention
from mossvl.engine.config import EngineConfig
from mossvl.engine.inputs import TextRows, to_device, vision_positions, vision_slots
from mossvl.engine.pool import PagePool, Tables, count_pages
from mossvl.engine.request import PixelScale, Request
from mossvl.engine.sampler import Drawn, Sampler
from mossvl.engine.scheduler import Frames, Plan, Rows
from mossvl.engine.vision_cache import VisionCache
from mossvl.model.layers import CrossAttentionLayer
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.model.xrope import rotary
from mossvl.processing.pixels import normalise


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


class Runner:
    """The model on its device, with the memory of the engine.

    Attributes:
        halvings: how often frames were encoded in smaller parts because memory did not suffice.
    """

    def __init__(self, model: MossVLLMHeadModel, config: EngineConfig) -> None:
        self.model, self.config = model, config
        self.language = model.model.language_model
        text = model.config.text_config
        weight = self.language.embed_tokens.weight
        self.device, self.dtype = weight.device, weight.dtype
        devices = [next(layer.parameters()).device for layer in self.language.layers]
        num_pages = count_pages(config, text, self.device, self.dtype)
        self.pool = PagePool(text, devices, self.dtype, num_pages, config.page_size)
        self.tables = Tables(self.pool, config.max_batch, text.max_position_embeddings, self.device)
        self.vision_cache = VisionCache(config.vision_cache)
        self.sampler = Sampler(text.vocab_size, config.max_batch, self.device)
        self.last_tokens = torch.zeros(config.max_batch + 1, dtype=torch.long, device=self.device)
        self.halvings = 0

    @property
    def overlaps(self) -> bool:
        """Whether a step runs beside the next one's preparation."""
        return self.device.type == "cuda"

    def check_device(self) -> None:
        """Raises if the device is of no use any more, as after an error in a kernel."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @torch.inference_mode()
    def launch(self, plan: Plan) -> Pending | None:
        """Begin a step → its tokens to come, if it draws any."""
        for _, source, target in plan.copies:
            self.pool.copy(source, target)
        if plan.frames:
            self._read(plan.frames)
        if not plan.prefill and not plan.decode:
            return None
        self.tables.update([*(rows.request for rows in plan.prefill), *plan.decode])
        requests, drawn = self._text(plan.prefill, plan.decode)
        return Pending.of(requests, drawn) if requests else None

    # --- vision --------------------------------------------------------------------------------------------------

    def _read(self, parts: Sequence[Frames]) -> None:
        """Encode frames, and write their keys and values for all cross-attention layers."""
        kept: dict[tuple[int, int], Tensor] = {}
        fresh: list[tuple[Request, int]] = []
        for part in parts:
            for frame in range(part.start, part.stop):
                tokens = self.vision_cache.get(part.request.digests[frame])
                if tokens is None:
                    fresh.append((part.request, frame))
                else:
                    kept[part.request.number, frame] = tokens
        kept |= self._encoded(fresh)
        order = [(part.request.number, frame) for part in parts for frame in range(part.start, part.stop)]
        vision = torch.cat([kept[key] for key in order])
        slots = to_device(vision_slots(parts, self.pool.page_size), self.device)
        rope = rotary(self.model.config.text_config, to_device(vision_positions(parts), self.device), vision.dtype)
        backend = PagedAttention(self.pool, self.tables, vision_slots=slots)
        for layer in self.language.layers:
            if isinstance(layer, CrossAttentionLayer):
                device = layer.cross_attn.k_proj.weight.device
                layer.read(vision.to(device), (rope[0].to(device), rope[1].to(device)), backend)

    def _encoded(self, frames: list[tuple[Request, int]]) -> dict[tuple[int, int], Tensor]:
        """Vision tokens, separator included, of frames that have pixels; in smaller parts when memory runs out."""
        encoded: dict[tuple[int, int], Tensor] = {}
        for scale, same in groupby(frames, key=lambda one: one[0].pixel_scale):
            group = list(same)
            sizes = [request.prompt.patches(frame) for request, frame in group]
            tokens = self._encode(group, scale)
            merge = self.model.config.vision_config.spatial_merge_size**2
            for (request, frame), own in zip(group, tokens.split([size // merge + 1 for size in sizes]), strict=True):
                encoded[request.number, frame] = own
                self.vision_cache.put(request.digests[frame], own)
        return encoded

    def _encode(self, frames: list[tuple[Request, int]], scale: PixelScale) -> Tensor:
        try:
            return self._encode_at_once(frames, scale)
        except torch.OutOfMemoryError:
            if len(frames) == 1:
                raise
        self.halvings += 1
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(frames) // 2
        return torch.cat([self._encode(frames[:half], scale), self._encode(frames[half:], scale)])

    def _encode_at_once(self, frames: list[tuple[Request, int]], scale: PixelScale) -> Tensor:
        """(vision tokens, hidden) of these frames."""
        patches = torch.cat([request.pixels[frame] for request, frame in frames])
        weight = self.model.model.visual.patch_embed.proj.weight
        pixels = normalise(to_device(patches, weight.device), *scale, weight.dtype)
        grids = [
            (len(list(same)), *grid)
            for grid, same in groupby(request.prompt.frame_grids[frame] for request, frame in frames)
        ]
        return self.model.model.encode_vision(pixels, torch.tensor(grids)).to(self.device)

    # --- text ----------------------------------------------------------------------------------------------------

    def _text(self, prefill: Sequence[Rows], decode: Sequence[Request]) -> tuple[list[Request], Drawn]:
        """Run text rows → the requests that draw a token, and the tokens."""
        rows = TextRows.build(prefill, decode)
        tokens = to_device(rows.tokens, self.device)
        slots = to_device(rows.slots, self.device)
        tokens[rows.num_prefill :] = self.last_tokens[slots[rows.num_prefill :]]
        hidden = self._forward(tokens, to_device(rows.positions, self.device), self._backend(rows), rows)
        drawing = to_device(torch.tensor(rows.draw_rows, dtype=torch.long), self.device)
        logits = self.model.lm_head(hidden[drawing.to(hidden.device)]).to(self.device)
        drawn = self.sampler.draw(logits, rows.draws)
        self.last_tokens[slots[drawing]] = drawn.tokens.clamp(min=0)
        return rows.draws, drawn

    def _forward(self, tokens: Tensor, positions: Tensor, backend: Any, rows: TextRows) -> Tensor:
        embeds = self.language.embed_tokens(tokens)
        sees = None
        if rows.visible.any():
            sees = to_device(rows.visible > 0, self.device)[:, None].to(embeds.dtype)
        return self.language(embeds, positions.expand(3, -1), backend, sees)

    def _backend(self, rows: TextRows) -> PagedAttention:
        return PagedAttention(self.pool, self.tables, rows)
