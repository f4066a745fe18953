"""The processor: text, images and videos in, model inputs out."""

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mossvl.checkpoints.headers import usable
from mossvl.errors import OptionError, PromptError
from mossvl.media.limits import MediaLimits
from mossvl.options import MediaOptions
from mossvl.options.checks import whole
from mossvl.processing import prompt, tensors
from mossvl.processing.batch import by_prompt, padded, truncated, with_blanks
from mossvl.processing.chat_template import check_template
from mossvl.processing.conversation import ConversationMixin
from mossvl.processing.decoded import is_decoded, with_times
from mossvl.processing.image_processor import MossVLImageProcessor
from mossvl.processing.keywords import Keywords
from mossvl.processing.labels import Span, batch_labels, prompt_labels
from mossvl.processing.messages import check_characters
from mossvl.processing.model_inputs import ModelInputs
from mossvl.processing.pixel_settings import PATCHES, SCALE, checked_channels
from mossvl.processing.plan import MediumPlan, VideoPlan, num_units, plan_stream
from mossvl.processing.prompt import PlannedPrompt
from mossvl.processing.video_processor import MossVLVideoProcessor


class MossVLProcessor(ConversationMixin):
    """Tokenizer, image processor and video processor in one.

    Attributes:
        limits: limits of media (pixels of an image, bytes and seconds of a download); may be replaced.

    Raises:
        OptionError: the image and the video processor have different patch or normalisation settings.
    """

    def __init__(
        self,
        image_processor: MossVLImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        video_processor: MossVLVideoProcessor,
        chat_template: str | None = None,
        frame_extract_num_threads: int | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template)
        for name in (*PATCHES, *SCALE):
            if getattr(image_processor, name) != getattr(video_processor, name):
                raise OptionError(
                    f"{name} is {getattr(image_processor, name)} for images but {getattr(video_processor, name)} for "
                    "videos; they must be the same"
                )
        if frame_extract_num_threads is not None:
            video_processor.num_extract_threads = frame_extract_num_threads
        self.limits = MediaLimits()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any) -> Self:
        """Load a processor, as transformers does; `AutoProcessor` calls this.

        Raises:
            CheckpointError: a file of the tokenizer or of a processor cannot be used, or the chat template is broken.
            OSError: a file is missing.
        """
        with usable(f"the processor of {pretrained_model_name_or_path}"):
            processor: Self = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
            template = processor._template()
            if template is not None:  # A checkpoint may have no template.
                check_template(template)
            return processor

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[MossVLImageProcessor | PreTrainedTokenizerBase | MossVLVideoProcessor]:
        """Load this package's image and video processor, whatever classes a checkpoint's files name."""
        kwargs = {name: value for name, value in kwargs.items() if name != "frame_extract_num_threads"}
        kwargs["trust_remote_code"] = False
        return [
            MossVLImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs),
            AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs),
            MossVLVideoProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs),
        ]

    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> type:
        """Check against this package's classes: without torchvision, transformers' own are dummies."""
        expected = {
            "image_processor": MossVLImageProcessor,
            "tokenizer": PreTrainedTokenizerBase,
            "video_processor": MossVLVideoProcessor,
        }[argument_name]
        if not isinstance(argument, expected):
            raise TypeError(f"{argument_name} is a {type(argument).__name__}; expected a {expected.__name__}")
        return expected

    @property
    def model_input_names(self) -> list[str]:
        return [
            *("input_ids", "attention_mask", "pixel_values"),
            *("grid_thw", "media_nums_per_sample", "cross_attention_mask"),
        ]

    @property
    def pixel_scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, by which pixels are normalised."""
        return tuple(self.image_processor.image_mean), tuple(self.image_processor.image_std)

    @property
    def image_token_id(self) -> int:
        return self._token_id(prompt.IMAGE_TOKEN)

    def _token_id(self, token: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(token))

    def with_pixels(
        self,
        patch_size: int,
        temporal_patch_size: int,
        merge_size: int,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        num_extract_threads: int | None = None,
    ) -> Self:
        """A copy of this processor with other pixel settings.

        Raises:
            OptionError: the patch settings differ from this processor's, which the model needs; or a value is invalid.
        """
        for name, value in zip(PATCHES, (patch_size, temporal_patch_size, merge_size), strict=True):
            if value != getattr(self.image_processor, name):
                raise OptionError(
                    f"{{{name}=}}, but this model's is {getattr(self.image_processor, name)}", given={name: value}
                )
        mean, deviation = checked_channels("image_mean", image_mean), checked_channels("image_std", image_std)
        other = copy.copy(self)
        for name in ("image_processor", "video_processor"):
            part = copy.copy(getattr(self, name))
            part.image_mean, part.image_std = mean, deviation
            setattr(other, name, part)
        if num_extract_threads is not None:
            other.video_processor.num_extract_threads = whole("num_extract_threads", num_extract_threads)
        return other

    # --- from text and media to a prompt -------------------------------------------------------------------------

    def plan(
        self, text: str, images: Sequence[Any], videos: Sequence[Any], options: MediaOptions, stack: ExitStack
    ) -> PlannedPrompt:
        """Open a prompt's media and compute everything but pixels.

        Args:
            text: the prompt, with `<|image|>` and `<|video|>` placeholders.
            stack: closes the media.

        Raises:
            MediaError: an image or a video cannot be used.
            OptionError: options exclude each other, or would make a picture too large.
            PromptError: placeholders and media do not match.
        """
        return self.lay_out(text, self.plan_media(text, images, videos, options, stack))

    def plan_media(
        self, text: str, images: Sequence[Any], videos: Sequence[Any], options: MediaOptions, stack: ExitStack
    ) -> list[MediumPlan]:
        """The first half of `plan`: plans of the media, in the order of their placeholders."""
        kinds = prompt.check_placeholders(text, len(images), sum(num_units(video) for video in videos))
        rest = {
            prompt.IMAGE: iter(self.image_processor.plan(images, options, self.limits, stack)),
            prompt.VIDEO: iter(self.video_processor.plan(videos, options, self.limits, stack)),
        }
        return [next(rest[kind]) for kind in kinds]

    def plan_stream(
        self, videos: Sequence[tuple[Any, Sequence[float]]], options: MediaOptions, stack: ExitStack
    ) -> list[VideoPlan]:
        """Open the videos of a live stream (see `plan.plan_stream`); frames have the sizes of images.

        Raises:
            MediaError: a video cannot be used, or has no such instant.
            OptionError: `min_pixels` would make a frame too large.
        """
        settings, threads = self.image_processor.settings(options), self.video_processor.num_extract_threads
        return plan_stream(videos, settings, self.image_processor.layout, self.limits, threads, stack)

    def lay_out(self, text: str, plans: list[MediumPlan]) -> PlannedPrompt:
        """The second half of `plan`: expand the placeholders and tokenise the prompt."""
        expansions = [
            prompt.IMAGE_TOKEN if plan.timestamps is None else prompt.video_text(plan.timestamps) for plan in plans
        ]
        expanded = prompt.ExpandedPrompt.expand(text, expansions)
        check_characters(expanded.text)
        encoded = self.tokenizer(expanded.text, return_offsets_mapping=True, verbose=False)
        input_ids = torch.tensor(encoded["input_ids"], dtype=torch.long)
        frames = sum(plan.num_frames for plan in plans)
        tokens = int((input_ids == self.image_token_id).sum())
        if tokens != frames:
            raise PromptError(
                f"the prompt has {tokens} {prompt.IMAGE_TOKEN} tokens, but the media have {frames} frames; "
                f"write {prompt.IMAGE} and {prompt.VIDEO} placeholders, and leave {prompt.IMAGE_TOKEN} to the processor"
            )
        grids = [tensors.grid_of(plan, self.image_processor.layout) for plan in plans]
        return PlannedPrompt(
            text=text,
            expanded=expanded,
            input_ids=input_ids,
            offsets=encoded["offset_mapping"],
            plans=plans,
            grid_thw=torch.tensor(grids, dtype=torch.long).view(-1, 3),
        )

    # --- from prompts to a batch --------------------------------------------------------------------------

    def __call__(
        self,
        text: str | Sequence[str],
        images: Any = None,
        videos: Any = None,
        labels_spans: Sequence[Span] | Sequence[Sequence[Span]] | None = None,
        padding: bool | str = True,
        padding_side: str | None = None,
        blank_image_for_text: bool = False,
        return_tensors: str = "pt",
        **media_kwargs: Any,
    ) -> ModelInputs:
        """Model inputs for one or more prompts.

        Args:
            text: a prompt or several, with `<|image|>` and `<|video|>` placeholders in them.
            images: images in the order of their placeholders, over all prompts or as one list for each prompt.
            videos: videos, likewise.
            labels_spans: character spans [start, end) of `text` with loss: a list for each prompt (or one list, for one
                prompt); adds `labels`.
            padding: pad to the longest prompt, on `padding_side` (the tokenizer's, by default).
            blank_image_for_text: give prompts without media a blank image that no token sees, as some trainers expect.
            media_kwargs: see `MediaOptions`; budgets are for each prompt. transformers' names (`fps`, `num_frames`,
                `video_metadata`, `images_kwargs`, …) are also accepted (see `Keywords`).

        Returns:
            `input_ids` and `attention_mask` (batch, text) int64, `cross_attention_mask` (batch, 1, text, frames) bool,
            True where hidden, and the list `media_nums_per_sample`; with media, `pixel_values` (patches,
            3 · patch_size²) float32 and `grid_thw` (media, 3) int64; with spans, `labels` (batch, text) int64, -100 for
            tokens without loss. With images alone, `grid_thw` is also `image_grid_thw`, and what follows is not listed
            (`ModelInputs`).

        Raises:
            InputError: media, placeholders, options or spans cannot be used; the message says which and why.
        """
        keywords = Keywords.of(media_kwargs, {name: getattr(self.image_processor, name) for name in SCALE})
        return_tensors = keywords.call.get("return_tensors", return_tensors)
        padding = keywords.call.get("padding", padding)
        if return_tensors != "pt":
            raise OptionError(
                "{return_tensors=} is not supported; only 'pt' is", given={"return_tensors": return_tensors}
            )
        side = keywords.call.get("padding_side", padding_side) or self.tokenizer.padding_side
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            raise PromptError("there is no prompt; give at least one text")
        if is_decoded(videos):
            videos = [videos]
        all_images, all_videos = by_prompt(images, texts, "images"), by_prompt(videos, texts, "videos")
        timed = iter(with_times([video for own in all_videos for video in own], keywords.video_metadata))
        all_videos = [[keywords.medium("video", next(timed)) for _ in own] for own in all_videos]
        all_images = [[keywords.medium("image", image) for image in own] for own in all_images]
        with ExitStack() as stack:
            planned = [
                self.plan(*prompt_and_media, keywords.media, stack)
                for prompt_and_media in zip(texts, all_images, all_videos, strict=True)
            ]
            longest, cut = keywords.call.get("max_length"), self.tokenizer.truncation_side
            planned = [truncated(one, longest, cut, self.image_token_id) for one in planned]
            media = [plan for one in planned for plan in one.plans]
            tensors_of_media = tensors.media_tensors(media, self.image_processor) if media else {}
        counts = [len(one.plans) for one in planned]
        if blank_image_for_text:
            tensors_of_media, counts = with_blanks(tensors_of_media, planned, self.image_processor.layout)
        batch = padded(planned, self.image_token_id, self.tokenizer.pad_token_id or 0, padding, side)
        if labels_spans is not None:
            batch["labels"] = batch_labels(planned, labels_spans, batch["attention_mask"], self._excluded_tokens)
        seen = counts == [len(one.plans) for one in planned]
        return ModelInputs.of({**batch, **tensors_of_media, "media_nums_per_sample": counts}, seen)

    def labels_of(self, planned: PlannedPrompt, spans: Sequence[Span]) -> Tensor:
        """(tokens,) int64: the tokens inside these character spans [start, end) of the prompt, else -100.

        Raises:
            OptionError: a span is empty, or not within the prompt.
        """
        return prompt_labels(planned, spans, self._excluded_tokens)

    @property
    def _excluded_tokens(self) -> dict[str, int]:
        return {
            "image": self.image_token_id,
            "start": self._token_id(prompt.VISION_START),
            "end": self._token_id(prompt.VISION_END),
        }
