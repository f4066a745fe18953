"""MOSS-VL as Hugging Face classes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from mossvl.checkpoints.strict import load_pretrained
from mossvl.errors import OptionError
from mossvl.model.cache import MossVLCache
from mossvl.model.configuration import MossVLConfig
from mossvl.model.generation import CACHE, MediaGenerationMixin
from mossvl.model.interval_backend import backend_for
from mossvl.model.language import NewVision, TextModel
from mossvl.model.loss import Loss, followers, next_token_loss
from mossvl.model.packed_batch import PackedBatch, group_media, image_tokens, images_of, seen_rows
from mossvl.model.pretrained import MossVLPreTrainedModel
from mossvl.model.signatures import extends
from mossvl.model.vision import VisionTower
from mossvl.model.vision_ops import PLAIN, VisionOps, equal_runs
from mossvl.parallel.ranks import Ranks
from mossvl.processing.pixels import Grid, num_vision_tokens
from mossvl.quantization.schemes import quantized_maps


class MossVLModel(MossVLPreTrainedModel):
    """Vision tower and language model, without the head."""

    def __init__(self, config: MossVLConfig) -> None:
        super().__init__(config)
        self.visual = VisionTower(config.vision_config)
        self.language_model = TextModel(config.text_config)
        self.separator_token = nn.Parameter(torch.zeros(config.text_config.hidden_size))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.language_model.embed_tokens = value

    def encode_vision(
        self, pixel_values: Tensor, grid_thw: Tensor | Sequence[Grid], chunk: int | None = None, ops: VisionOps = PLAIN
    ) -> Tensor:
        """Encode media to vision sequences, a separator after every frame.

        Args:
            pixel_values: (patches, channels · temporal_patch · patch²), normalised, or uint8 pixels.
            grid_thw: (media, 3) frames, patch rows and patch columns; or a list of such triples.
            chunk: frames encoded at a time (all if None); bounds the memory, changes no result.
            ops: the operations of the tower.

        Returns:
            (vision tokens, hidden): pass it to `forward` as `vision_embeds`, with `grid_thw`, to encode media once.
        """
        given = grid_thw.tolist() if isinstance(grid_thw, Tensor) else grid_thw
        grids = [(int(t), int(h), int(w)) for t, h, w in given]
        return self.separated(self.visual(pixel_values, grids, chunk, ops), grids)

    def separated(self, merged: Tensor, grids: Sequence[Grid]) -> Tensor:
        """The vision tower's output (tokens, hidden) with the separator after every frame, (vision tokens, hidden)."""
        separator = self.separator_token.to(merged)
        runs = [
            (frames, patches // self.config.vision_config.spatial_merge_size**2)
            for frames, patches in equal_runs(grids)
        ]
        parts = merged.split([frames * tokens for frames, tokens in runs])
        sequence = [
            torch.cat((part.unflatten(0, (frames, -1)), separator.expand(frames, 1, -1)), dim=1).flatten(0, 1)
            for part, (frames, _) in zip(parts, runs, strict=True)
        ]
        return sequence[0] if len(sequence) == 1 else torch.cat(sequence)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        grid_thw: Tensor | None = None,
        media_nums_per_sample: Sequence[int] | Tensor | None = None,
        cross_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        vision_embeds: Tensor | None = None,
        vision_index: Sequence[int] | Tensor | None = None,
        vision_chunked_length: int | None = None,
        packed: PackedBatch | None = None,
        cache: MossVLCache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        image_grid_thw: Tensor | None = None,
    ) -> BaseModelOutputWithPast:
        """Run a batch of samples: padded on either side, or packed in one row without padding.

        Args:
            input_ids: (batch, text); or `inputs_embeds` (batch, text, hidden).
            attention_mask: (batch, text so far), 0 for padding.
            pixel_values: (patches, channels · temporal_patch · patch²) of all media of the batch in order, as
                `encode_vision` takes them.
            grid_thw: (media, 3) frames, patch rows, patch columns. Every frame has one image token in its sample.
            media_nums_per_sample: how many media each sample has; may be left out for a batch of one.
            cross_attention_mask: (batch, 1, text, frames) bool, True where a frame is hidden from a token. It must
                agree with `input_ids`; with `inputs_embeds`, it locates the image tokens.
            vision_embeds: the result of `encode_vision` in place of `pixel_values`.
            vision_index: (batch,) which entry of `media_nums_per_sample` each sample reads, when samples share media.
            vision_chunked_length: frames encoded at a time.
            packed: the layout of samples that lie one after the other in `input_ids` (1, rows). It replaces masks,
                grids and counts; `pixel_values` are those of its media.
            cache: keys and values of earlier calls; `pixel_values` are then those of new image tokens only.
            output_hidden_states: also return each layer's input, and the final state.
            image_grid_thw: `grid_thw` of media that are all images; how many each sample has follows from `input_ids`.

        Returns:
            `last_hidden_state` (batch, text, hidden), 0 at padding; the cache, if any; `hidden_states`, if asked for.

        Raises:
            ValueError: image tokens, frames, masks and media counts do not fit together.
            OptionError: the cache is not a `MossVLCache`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if cache is not None and not isinstance(cache, MossVLCache):
            raise OptionError(f"the cache is a {type(cache).__name__}; this model needs a MossVLCache")
        if packed is not None:
            given = input_ids if inputs_embeds is None else inputs_embeds
            others = (grid_thw, image_grid_thw, cache)
            if any(one is not None for one in others) or given is None or len(given) != 1:
                raise ValueError("packed samples are one row of input_ids, bring their own grids, and have no cache")
            # Embed rows, not (1, rows): compiled layers would be compiled again for a view, and again to recompute it.
            rows_in = self.language_model.embed_tokens(given[0]) if inputs_embeds is None else given[0]
            if vision_embeds is None and pixel_values is not None and packed.grids:
                vision_embeds = self.encode_vision(pixel_values, packed.grids, vision_chunked_length)
            return self._run(rows_in, packed, vision_embeds, None, lambda state: state[None], output_hidden_states)

        embeds = self.language_model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        batch, columns = embeds.shape[:2]
        real = torch.ones(batch, columns, dtype=torch.bool)
        if attention_mask is not None:
            real = attention_mask[:, -columns:].bool().cpu()
        reads = list(range(batch)) if vision_index is None else [int(i) for i in vision_index]
        found = image_tokens(input_ids, cross_attention_mask, real, self.config.image_token_id)
        if image_grid_thw is not None:
            grid_thw, media_nums_per_sample = images_of(image_grid_thw, grid_thw, media_nums_per_sample, found)
        groups = group_media(grid_thw, media_nums_per_sample, batch if vision_index is None else None)
        merge = self.config.vision_config.spatial_merge_size
        packed = PackedBatch.pack(found, groups, reads, merge, cache)
        if vision_embeds is not None:
            tokens = [num_vision_tokens(grids, merge) for grids in groups]
            vision_embeds = seen_rows(vision_embeds, tokens, packed.groups, "vision tokens")
        elif pixel_values is not None:
            patches = [sum(t * h * w for t, h, w in grids) for grids in groups]
            pixel_values = seen_rows(pixel_values, patches, packed.groups, "patches")
            if len(pixel_values):
                vision_embeds = self.encode_vision(pixel_values, packed.grids, vision_chunked_length)
        if use_cache and cache is None:
            cache = MossVLCache(self.config.text_config)
        rows = real.to(embeds.device)

        def padded(state: Tensor) -> Tensor:
            full = state.new_zeros(batch, columns, state.shape[-1])
            full[rows.to(state.device)] = state
            return full

        output = self._run(embeds[rows], packed, vision_embeds, cache, padded, output_hidden_states)
        if cache is not None:
            packed.remember(cache, columns)
        return output

    def _run(
        self,
        embeds: Tensor,
        packed: PackedBatch,
        vision_embeds: Tensor | None,
        cache: MossVLCache | None,
        padded: Callable[[Tensor], Tensor],
        output_hidden_states: bool | None,
    ) -> BaseModelOutputWithPast:
        """Run the language model on packed rows (rows, hidden); `padded` restores the shape of the inputs."""
        if vision_embeds is not None and not len(vision_embeds):
            vision_embeds = None
        given = 0 if vision_embeds is None else len(vision_embeds)
        described = packed.vision_positions.shape[1]
        if described != given:
            raise ValueError(
                f"grid_thw describes {described} vision tokens, separators included, but {given} were given; pass "
                "pixel_values or vision_embeds for all media of this call"
            )
        sees = packed.visible.to(embeds.device, non_blocking=True)[:, None] > 0 if packed.visible.any() else None
        states: list[Tensor] | None = [] if output_hidden_states else None
        backend, vision = backend_for(packed, cache, embeds.device), None
        if vision_embeds is not None:
            positions = packed.vision_positions.to(vision_embeds.device, non_blocking=True)
            vision = NewVision(vision_embeds, positions, backend)
        hidden = self.language_model(
            embeds,
            packed.positions.to(embeds.device, non_blocking=True),
            backend,
            None if sees is None else sees.to(embeds.dtype),
            vision,
            states,
        )
        return BaseModelOutputWithPast(
            last_hidden_state=padded(hidden),
            hidden_states=tuple(padded(state) for state in states) if states is not None else None,
            **{CACHE: cache},
        )


class MossVLLMHeadModel(MossVLPreTrainedModel, MediaGenerationMixin):
    """MOSS-VL with its head: what the published checkpoints hold, and `generate`.

    Users load it as `MossVLForConditionalGeneration`, which adds the offline methods.
    """

    ranks: Ranks | None = None
    """The group of processes among which the language model is cut; this process has its rank's part."""
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    accepts_loss_kwargs = True

    def __init__(self, config: MossVLConfig) -> None:
        super().__init__(config)
        self.model = MossVLModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.set_input_embeddings(value)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path | None, *args: Any, **kwargs: Any) -> Self:
        """Load a checkpoint as in transformers, but refuse one that does not fit.

        `device_map` works without accelerate too, as long as it names a single device or is "auto".

        Raises:
            CheckpointError: tensors are missing, unexpected or misshapen (each is named), files are broken, or the
                checkpoint is of another model type.
        """
        return load_pretrained(cls, super().from_pretrained, pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers.

        Raises:
            OptionError: weights were quantized by `mossvl.load`, which transformers would write as plain ones; or the
                model is cut among processes.
        """
        self.require_whole("save_pretrained")
        if any(quantized_maps(self)):
            raise OptionError(
                "save_pretrained would write quantized weights without saying so; the command mossvl quantize writes "
                "quantized checkpoints"
            )
        super().save_pretrained(*args, **kwargs)

    def require_whole(self, what: str) -> None:
        """Refuse what needs all weights, if this process has only a rank's part of them.

        Raises:
            OptionError: it has.
        """
        if self.ranks is not None:
            raise OptionError(
                f"{what} needs the whole model, but this one is cut among {self.ranks.share.size} processes; ask its "
                "engine (mossvl.MossVL), or load it without tensor_parallel_size"
            )

    @extends(MossVLModel.forward)
    def forward(
        self,
        *,
        labels: Tensor | None = None,
        loss: Loss = next_token_loss,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        past_key_values: MossVLCache | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> CausalLMOutputWithPast | tuple[object, ...]:
        """Logits (batch, text, vocab) for a batch of samples; for the other arguments see `MossVLModel.forward`.

        Args:
            labels: (batch, text) int64, -100 for no loss; with labels, the loss is returned, too.
            loss: computes the loss from logits, the labels of the next tokens, and `num_items_in_batch`. By default, it
                is the mean cross entropy (or its sum over `num_items_in_batch`).
            logits_to_keep: number of last columns (0: all), or indices of columns, of which logits and loss are
                computed. The last column of `labels` predicts nothing.
            past_key_values: the cache, by its name in transformers before 5.24.

        Training on packed rows, with `labels` and indices of columns, returns the loss without the logits.

        Raises:
            OptionError: `output_attentions` was asked for, or a cache with gradient checkpointing; or the model is cut
                among processes.
        """
        self.require_whole("forward")
        if output_attentions:
            raise OptionError("output_attentions is not supported: attention weights are never computed as a whole")
        cache = past_key_values if inputs.get("cache") is None else inputs["cache"]
        use_cache = inputs.get("use_cache")
        if use_cache is None and labels is not None:
            use_cache = False
        cached = use_cache is not False or cache is not None
        recomputed = cached and self.training and self.is_gradient_checkpointing  # looks at each of 4,000 modules
        if recomputed and (use_cache or cache is not None):
            raise OptionError("gradient checkpointing runs layers twice and cannot fill a cache; leave use_cache out")
        if use_cache is None:
            use_cache = self.config.text_config.use_cache and not recomputed
        output = self.model(**{**inputs, "cache": cache, "use_cache": use_cache})
        columns = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, columns])
        computed_loss = None
        if labels is not None:
            following = followers(labels, inputs.get("attention_mask"))[:, columns]
            computed_loss = loss(logits.flatten(0, 1), following.flatten(), num_items_in_batch)
        # A training loop would keep returned logits, in float32.
        packed_columns = inputs.get("packed") is not None and isinstance(columns, Tensor)
        loss_only = computed_loss is not None and packed_columns and self.training and torch.is_grad_enabled()
        result = CausalLMOutputWithPast(
            loss=computed_loss,
            logits=None if loss_only else logits,
            hidden_states=output.hidden_states,
            **{CACHE: getattr(output, CACHE)},
        )
        return result.to_tuple() if return_dict is False else result
