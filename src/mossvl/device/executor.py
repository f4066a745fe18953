"""Carries out steps, given as arrays (`StepArrays`), with the language model and its pages on a device.

An executor knows no requests, so that several executors, each with a part of the model, carry out the same step
(`device.leading`).
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING
from weakref import WeakMethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mossvl.adapters.loaded import Adapters, beyond_memory
from mossvl.adapters.rows import AdaptedRows
from mossvl.device.fused_products import FusedWeights
from mossvl.device.fusing import fuse, groups
from mossvl.device.inputs import StepArrays, StepInputs, TextRows, VisionRows, to_device
from mossvl.device.paged_backend import PagedAttention
from mossvl.device.pool import FP8, PageLayout, PagePool, count_pages
from mossvl.device.sampler import likeliest, told_apart
from mossvl.device.scores import Scores, scores_of
from mossvl.device.summed import SummedProducts, embedded, likeliest_of_parts
from mossvl.device.tables import Tables
from mossvl.errors import MossVLError, OptionError
from mossvl.model.layers import Attention, CrossAttentionLayer, SelfAttentionLayer, TextBackend, VisionBackend
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.model.xrope import rotary
from mossvl.options.engine import EngineConfig
from mossvl.quantization.fp8 import FP8_CAPABILITY
from mossvl.scheduling.pages import NO_ADAPTER
from mossvl.waits import Waits

if TYPE_CHECKING:
    from mossvl.device.graphs import StepGraphs
    from mossvl.device.low_rank import StackedRows
    from mossvl.device.triton_backend import PrefillTiles

GRAPH_SPLITS = (4, 16)
"""Splits of the text tokens and vision tokens that a tile sees in a captured step, where tiles are few."""

SCORED_ROWS = 256
"""Rows whose logits are in memory at a time, to score prompts."""

Output = tuple[Tensor, Tensor]
"""(logits (draws, vocab), likeliest tokens (draws,) int64); logits are of this rank's part of the vocabulary."""


class Executor:
    """The language model on its device, with the keys and values of all requests.

    Attributes:
        adapters: that requests may have.
        last_tokens: (slots + 1,) int64, the last drawn token of the request in each batch slot; the last slot is that
            of padding rows.
        graphs: CUDA graphs of steps; None if steps are not captured.
        waits: those for the device; None if they have no bound.
    """

    waits: Waits | None = None

    def __init__(self, model: MossVLLMHeadModel, config: EngineConfig) -> None:
        self.model, self.config = model, config
        self.language, self.ranks = model.model.language_model, model.ranks
        text = self.language.config  # Of this rank's part.
        self.device = self.language.embed_tokens.weight.device
        dtype = self.language.norm.weight.dtype  # Of keys and values; weights may have others.
        devices = [next(layer.parameters()).device for layer in self.language.layers]
        self.fast = self.device.type == "cuda" and len(set(devices)) == 1 and has_triton()
        if self.fast:
            from mossvl.device.triton_backend import KINDS

            fuse(model)
            self.weights = FusedWeights(KINDS)
        self.adapters, layout, num_pages = self._agreed(dtype)
        self.pool = PagePool(text, devices, layout, num_pages, map(attention_of, self.language.layers))
        self.tables = Tables(self.pool, config.max_batch, text.max_position_embeddings, self.device)
        self.last_tokens = torch.zeros(config.max_batch + 1, dtype=torch.long, device=self.device)
        self.graphs: StepGraphs | None = None
        if self.fast and not config.eager:
            from mossvl.device import graphs

            step = WeakMethod(self._captured_step)  # A strong reference would be a cycle.
            captured = lambda *given: step()(*given)  # type: ignore[misc]  # noqa: E731
            self.graphs = graphs.StepGraphs(config.max_batch, self.device, captured, bool(self.adapters.names))

    def _agreed(self, dtype: torch.dtype) -> tuple[Adapters, PageLayout, int]:
        """Adapters, layout of pages, and the number of pages that fit on the device of every rank.

        Raises:
            CheckpointError: an adapter cannot be used.
            OptionError: adapters or fewer than four pages do not fit, or the device has no FP8.
        """
        try:
            adapters = self._adapters(self.config.lora or {})
            layout = PageLayout.of(self.config, dtype)
            if FP8 in (layout.text, layout.vision):
                check_fp8(self.device)
            found = count_pages(self.config, self.language.config, self.device, layout)
        except MossVLError:
            if self.ranks is not None:  # The others wait for this number.
                self.ranks.least(0)
            raise
        least = found if self.ranks is None else self.ranks.least(found)
        if not least:
            raise OptionError(
                "another rank has no room for keys and values on its device; raise {memory}", option="memory"
            )
        return adapters, layout, least

    def _adapters(self, folders: Mapping[str, str]) -> Adapters:
        try:
            adapters = Adapters.load(self.model, folders)
            if self.fast and adapters.names:  # Stacked, they take more memory, which is left out of that for pages.
                from mossvl.device.low_rank import Stacks

                fused = [one for one in groups(self.model) if self.weights.of(*one) is not None]
                self.stacks = Stacks(adapters, fused)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise beyond_memory(folders) from error.with_traceback(None)
        return adapters

    def is_captured(self, rows: TextRows) -> bool:
        """Whether a graph fits these rows."""
        return self.graphs is not None and self.graphs.kind_of(rows) is not None

    def prepare(self, step: StepArrays) -> None:
        """Copy pages, then update the page tables."""
        for source, target in step.copies:
            self.pool.copy(source, target)
        self.tables.apply(step.tables)

    def store_vision(self, rows: VisionRows, tokens: Tensor) -> None:
        """Compute and store keys and values of vision tokens (vision rows, hidden) in all cross-attention layers."""
        positions = to_device(rows.positions, self.device)
        rope = rotary(self.language.config, positions, tokens.dtype)
        backend = self._vision_writer(rows)
        for layer, device in zip(self.language.layers, self.pool.devices, strict=True):
            if isinstance(layer, CrossAttentionLayer):
                layer.store_vision(tokens.to(device), (rope[0].to(device), rope[1].to(device)), backend)

    def compute(self, rows: TextRows) -> Output:
        """Compute text rows, by replay if a graph fits.

        The likeliest tokens become the last tokens, unless `set_last_tokens` sets others.
        """
        kind = self.graphs.kind_of(rows) if self.graphs is not None else None
        if self.graphs is not None and kind is not None:
            return self.graphs.run(kind, rows)
        return self._step(*self._on_device(rows))

    def compute_scored(self, rows: TextRows) -> tuple[Output, Scores | None]:
        """Compute text rows, some of which are scored; the scores are None on others than rank 0."""
        assert rows.scored is not None
        inputs, backend = self._on_device(rows)
        hidden = self._hidden(inputs, backend)
        parts = []
        for start in range(0, len(rows.scored.rows), SCORED_ROWS):  # As logits of all rows would take much memory.
            part = slice(start, start + SCORED_ROWS)
            (logits,) = backend.project(hidden[to_device(rows.scored.rows[part], hidden.device)], (self.model.lm_head,))
            whole = self._whole(logits.to(self.device))
            if whole is not None:
                targets = to_device(rows.scored.targets[part], self.device)
                parts.append(scores_of(whole, targets, rows.scored.most))
        scores = Scores(*map(torch.cat, zip(*parts, strict=True))) if parts else None
        return self._output(hidden, inputs, backend), scores

    def whole_logits(self, part: Tensor) -> Tensor | None:
        """Logits of the whole vocabulary, of those of each rank's part; None on others than rank 0."""
        return self._whole(part)

    def _whole(self, part: Tensor) -> Tensor | None:
        return part if self.ranks is None else self.ranks.whole_columns(part)

    def set_last_tokens(self, slots: Tensor, tokens: Tensor) -> None:
        """Set the last tokens (n,) int64 of batch slots (n,) int64."""
        self.last_tokens[to_device(slots, self.device)] = tokens.clamp(min=0)

    def _vision_writer(self, rows: VisionRows) -> VisionBackend:
        """The backend that writes vision tokens' keys and values."""
        slots = to_device(rows.slots, self.device)
        if not self.fast:
            return PagedAttention(self.pool, self.tables, vision_slots=slots, adapted=self._adapted(rows.adapters))
        from mossvl.device.triton_backend import VisionWriter

        adapted = self._stacked(to_device(rows.adapters, self.device)) if (rows.adapters != NO_ADAPTER).any() else None
        return VisionWriter(self.pool, self.weights, slots, adapted)

    def _on_device(self, rows: TextRows) -> tuple[StepInputs, TextBackend]:
        """Inputs and backend of a step that is not captured."""
        packed = to_device(rows.packed(len(rows.tokens), padding_slot=self.config.max_batch), self.device)
        inputs = StepInputs.of(packed, len(rows.draw_rows), rows.sees, rows.adapted)
        if not self.fast:
            paged = PagedAttention(self.pool, self.tables, rows, adapted=self._adapted(rows.adapters))
            return inputs, self._summed(paged)
        from mossvl.device.triton_backend import in_tiles

        return inputs, self._fast_attention(inputs, in_tiles(self.pool, rows, self.device))

    def _adapted(self, indices: NDArray[np.int32]) -> AdaptedRows | None:
        """What adds the rows' adapters; None if no row has one."""
        return AdaptedRows(self.adapters, torch.from_numpy(indices)) if (indices != NO_ADAPTER).any() else None

    def _summed(self, backend: TextBackend) -> TextBackend:
        return backend if self.ranks is None else SummedProducts(backend, self.ranks)

    def _fast_attention(self, inputs: StepInputs, prefill: "PrefillTiles | None") -> TextBackend:
        from mossvl.device.triton_backend import FastAttention

        rows = inputs.slots, inputs.lengths, inputs.visible, inputs.starts
        adapted = self._stacked(inputs.adapters) if inputs.adapted else None
        return self._summed(FastAttention(self.pool, self.tables, self.weights, *rows, prefill, adapted))

    def _stacked(self, index: Tensor) -> "StackedRows":
        """What adds the adapters of rows (rows,) int32 on a GPU."""
        from mossvl.device.low_rank import StackedRows

        return StackedRows(self.stacks, index)

    def _step(self, inputs: StepInputs, backend: TextBackend) -> Output:
        return self._output(self._hidden(inputs, backend), inputs, backend)

    def _hidden(self, inputs: StepInputs, backend: TextBackend) -> Tensor:
        """Hidden states (rows, hidden), normalised."""
        tokens = torch.where(inputs.tokens < 0, self.last_tokens[inputs.slots], inputs.tokens)
        table = self.language.embed_tokens
        embeds = table(tokens) if self.ranks is None else embedded(tokens, table, self.ranks)
        sees = (inputs.visible > 0)[:, None].to(embeds.dtype) if inputs.vision else None
        hidden: Tensor = self.language(embeds, inputs.positions.expand(3, -1), backend, sees)
        return hidden

    def _output(self, hidden: Tensor, inputs: StepInputs, backend: TextBackend) -> Output:
        slots = inputs.slots
        if inputs.drawing is not None:
            hidden, slots = hidden[inputs.drawing.to(hidden.device)], slots[inputs.drawing]
        (logits,) = backend.project(hidden, (self.model.lm_head,))
        logits = logits.to(self.device)
        likely = likeliest(logits) if self.ranks is None else told_apart(*likeliest_of_parts(logits, self.ranks))
        self.last_tokens[slots] = likely.clamp(min=0)
        return logits, likely

    def _captured_step(self, inputs: StepInputs, tiles: Tensor | None) -> Output:
        """`_step` from device tensors alone, as a graph replays it."""
        from mossvl.device.triton_backend import PrefillTiles

        prefill = None if tiles is None else PrefillTiles(tiles, len(inputs.tokens), *GRAPH_SPLITS)
        return self._step(inputs, self._fast_attention(inputs, prefill))

    def check(self) -> None:
        """Raise if another rank has failed."""

    def waiting(self) -> AbstractContextManager[None]:
        """Within, the device is waited for, and with it other ranks."""
        return nullcontext() if self.waits is None else self.waits.one()

    def warm_up(self, report: Callable[[int, int], None]) -> None:
        """Compile kernels and capture all graphs; `report` is called with (graphs captured, graphs in all)."""
        if self.graphs is None:
            return
        from mossvl.device.triton_backend import warm_up_prefill

        kinds, text = self.graphs.kinds(), self.language.config
        warm_up_prefill(self.pool, self.tables, text.num_attention_heads, self.language.norm.weight.dtype)
        if self.adapters.names:
            self.stacks.warm_up()
        for done, kind in enumerate(kinds):
            report(done, len(kinds))
            self.graphs.captured(kind)
        report(len(kinds), len(kinds))


def check_fp8(device: torch.device) -> None:
    """Refuse keys and values in FP8 on a GPU without instructions for them.

    Raises:
        OptionError: its compute capability is below 8.9.
    """
    if device.type == "cuda" and (found := torch.cuda.get_device_capability(device)) < FP8_CAPABILITY:
        raise OptionError(
            f"keys and values in FP8 need a GPU of compute capability 8.9, but {device} has {found[0]}.{found[1]}; "
            "leave out {kv_cache_dtype} and {vision_kv_cache_dtype}",
            given={"kv_cache_dtype": "fp8", "vision_kv_cache_dtype": "fp8"},
        )


def attention_of(layer: nn.Module) -> Attention:
    """The attention of a decoder layer."""
    assert isinstance(layer, SelfAttentionLayer | CrossAttentionLayer)
    return layer.self_attn if isinstance(layer, SelfAttentionLayer) else layer.cross_attn


def has_triton() -> bool:
    return find_spec("triton") is not None
