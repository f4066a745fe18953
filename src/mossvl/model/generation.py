"""`generate` of transformers for prompts with media, which are encoded once and shared by beams."""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from mossvl.errors import OptionError
from mossvl.model.cache import MossVLCache
from mossvl.model.configuration import MossVLConfig
from mossvl.model.packed_batch import images_of

MEDIA_INPUTS = ("pixel_values", "grid_thw", "image_grid_thw", "media_nums_per_sample", "vision_embeds", "vision_index")
CACHE = next(one.name for one in fields(CausalLMOutputWithPast) if one.name in ("cache", "past_key_values"))
"""How this version of transformers calls the cache: `cache` from 5.24 on, `past_key_values` before."""
ONE_BY_ONE = "tokens are drawn one by one, since the cache cannot be cropped"
UNSUPPORTED = {
    "assistant_model": ONE_BY_ONE,
    "assistant_early_exit": ONE_BY_ONE,
    "prompt_lookup_num_tokens": ONE_BY_ONE,
    "use_mtp": ONE_BY_ONE,
    "prefill_chunk_size": "a prompt is prefilled at once, with its media; vision_chunked_length bounds their memory",
}
"""Options of `generate` that this model refuses, and why."""


class MediaGenerationMixin(GenerationMixin):
    """`generate` for a model whose prompts have media."""

    config: MossVLConfig

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers.

        Raises:
            OptionError: an option is not supported: assisted decoding, chunked prefill, or another cache.
        """
        config = kwargs.get("generation_config") or self.generation_config
        for name, why in UNSUPPORTED.items():
            if kwargs.get(name, getattr(config, name, None)):
                raise OptionError(f"{name} is not supported; leave it out: {why}")
        return super().generate(*args, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Pass media with the prompt only: in later steps, their keys and values are in the cache.

        Raises:
            OptionError: prompts are padded on the right, where the answer continues.
        """
        kwargs.pop("tokenizer", None)  # `generate` itself needs it, for `stop_strings`.
        if is_first_iteration and attention_mask is not None and not attention_mask[:, -1].all():
            raise OptionError("prompts are padded on the right; to generate, pad them on the left: padding_side='left'")
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        if not is_first_iteration and inputs.get(CACHE) is not None:
            for name in MEDIA_INPUTS:
                inputs.pop(name, None)
        if inputs.get("inputs_embeds") is None:
            inputs.pop("cross_attention_mask", None)
        return inputs

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        if generation_config.cache_implementation not in (None, "dynamic"):
            raise OptionError(
                "{cache_implementation=} is not supported; leave it out: keys and values are kept in a MossVLCache",
                given={"cache_implementation": generation_config.cache_implementation},
            )
        if generation_config.use_cache is not False and model_kwargs.get(CACHE) is None:
            model_kwargs[CACHE] = MossVLCache(self.config.text_config)

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Repeat every sample `expand_size` times for beams; the repetitions read the same media, encoded once."""
        media = {name: model_kwargs.pop(name) for name in MEDIA_INPUTS if name in model_kwargs}
        if expand_size > 1 and input_ids is not None and media.get("image_grid_thw") is not None:
            found = list(input_ids == self.config.image_token_id)
            media["grid_thw"], media["media_nums_per_sample"] = images_of(
                media.pop("image_grid_thw"), media.get("grid_thw"), media.get("media_nums_per_sample"), found
            )
        # Keyword arguments: some versions of transformers have a static method here, others an instance method.
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        if expand_size > 1 and media.get("grid_thw") is not None:
            if media.get("media_nums_per_sample") is None:
                media["media_nums_per_sample"] = [len(media["grid_thw"])]
            counts = media["media_nums_per_sample"]
            reads = media.get("vision_index")
            reads = range(len(counts)) if reads is None else reads
            media["vision_index"] = torch.tensor([int(i) for i in reads]).repeat_interleave(expand_size)
        return input_ids, {**model_kwargs, **media}
