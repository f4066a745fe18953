"""The model class that users load, with the published offline methods."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mossvl.engine.engine import Engine
from mossvl.model.configuration import MossVLConfig
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.offline.loop import OfflineLoop
from mossvl.offline.realtime_methods import RealtimeMethods
from mossvl.offline.slot import EngineSlot
from mossvl.offline.stream import BatchStream
from mossvl.options import Timestamps
from mossvl.options.engine import EngineConfig
from mossvl.processing.processor import MossVLProcessor
from mossvl.queries.query import Message, as_list

if TYPE_CHECKING:
    import queue


class MossVLForConditionalGeneration(RealtimeMethods, MossVLLMHeadModel):
    """MOSS-VL as a Hugging Face model, with methods that answer queries without a generation loop of the caller's.

    The offline methods share one engine, made at first use.
    """

    def __init__(self, config: MossVLConfig) -> None:
        super().__init__(config)
        self._slot = EngineSlot()

    def engine(self, config: EngineConfig | None = None) -> Engine:
        """Return the engine behind the offline methods; another `config`, or moved weights, make a new one.

        On a GPU the engine takes most of the free memory. For a smaller one, call
        `model.engine(EngineConfig(memory=0.5))` first.
        """
        return self._slot.engine(self, config)

    def close_engine(self) -> None:
        """End the engine's queries and free its memory; the next offline call makes a new engine."""
        self._slot.close()

    def offline_image_generate(
        self,
        processor: MossVLProcessor,
        prompt: str,
        image: Any,
        shortest_edge: int | None = None,
        longest_edge: int | None = None,
        multi_image_max_pixels: int | None = None,
        patch_size: int = 16,
        temporal_patch_size: int = 1,
        merge_size: int = 2,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_k: int = 50,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        do_sample: bool = False,
        vision_chunked_length: int = 64,
        system_prompt: str | None = None,
        *,
        thinking_mode: str | None = None,
        system_prompt_type: str | None = None,
        use_default_system_prompt: bool | None = None,
    ) -> str:
        """Answer a question about an image, or a list of them.

        Args:
            image: a path, URL, PIL image, array or tensor.
            shortest_edge, longest_edge: smallest and largest area of an image in pixels (areas, despite their names).
            multi_image_max_pixels: largest total area of all images, in pixels.
            thinking_mode, system_prompt_type, use_default_system_prompt: see `SystemPrompt`.

        A limit of None means the limit of `processor`.

        Raises:
            MossVLError: the image or an option cannot be used.
        """
        processor = processor.with_pixels(patch_size, temporal_patch_size, merge_size, image_mean, image_std)
        query = {
            "prompt": prompt,
            "images": as_list(image),
            "system_prompt": system_prompt,
            "thinking_mode": thinking_mode,
            "system_prompt_type": system_prompt_type,
            "use_default_system_prompt": use_default_system_prompt,
            "media_kwargs": {
                "min_pixels": shortest_edge,
                "max_pixels": longest_edge,
                "multi_image_max_pixels": multi_image_max_pixels,
            },
        }
        return self._answer(
            processor,
            query,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            do_sample=do_sample,
            vision_chunked_length=vision_chunked_length,
        )

    def offline_video_generate(
        self,
        processor: MossVLProcessor,
        prompt: str,
        video: Any,
        shortest_edge: int | None = None,
        longest_edge: int | None = None,
        video_max_pixels: int | None = None,
        patch_size: int = 16,
        temporal_patch_size: int = 1,
        merge_size: int = 2,
        video_fps: float | None = None,
        min_frames: int | None = None,
        max_frames: int | None = None,
        num_extract_threads: int = 4,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_k: int = 50,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        do_sample: bool = False,
        vision_chunked_length: int = 64,
        system_prompt: str | None = None,
        timestamps: Timestamps | None = None,
        *,
        thinking_mode: str | None = None,
        system_prompt_type: str | None = None,
        use_default_system_prompt: bool | None = None,
    ) -> str:
        """Answer a question about a video, or a list of them.

        Args:
            video: a path, URL, {"video_path": …, "segments": …}, or a list of frames with timestamps.
            shortest_edge, longest_edge: smallest and largest area of a frame in pixels (areas, despite their names).
            video_max_pixels: largest total area of all frames, in pixels.
            num_extract_threads: threads of the video decoder.
            timestamps: see `MediaOptions`.
            thinking_mode, system_prompt_type, use_default_system_prompt: see `SystemPrompt`.

        A limit or `video_fps` of None means that of `processor`.

        Raises:
            MossVLError: the video or an option cannot be used.
        """
        processor = processor.with_pixels(
            patch_size, temporal_patch_size, merge_size, image_mean, image_std, num_extract_threads
        )
        query = {
            "prompt": prompt,
            "videos": as_list(video),
            "system_prompt": system_prompt,
            "thinking_mode": thinking_mode,
            "system_prompt_type": system_prompt_type,
            "use_default_system_prompt": use_default_system_prompt,
            "media_kwargs": {
                "min_pixels": shortest_edge,
                "max_pixels": longest_edge,
                "video_max_pixels": video_max_pixels,
                "video_fps": video_fps,
                "min_frames": min_frames,
                "max_frames": max_frames,
                "timestamps": timestamps,
            },
        }
        return self._answer(
            processor,
            query,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            do_sample=do_sample,
            vision_chunked_length=vision_chunked_length,
        )

    def offline_batch_generate(
        self,
        processor: MossVLProcessor,
        queries: Sequence[dict[str, Any] | str],
        session_states: Sequence[Sequence[Message]] | None = None,
        vision_chunked_length: int = 64,
        raise_on_error: bool = False,
    ) -> dict[str, Any]:
        """Answer several queries together.

        Args:
            queries: see `mossvl.queries.query.Query`; each has its own options and budgets.
            session_states: the `session_states` of an earlier call, one for each query.
            raise_on_error: raise the first error, instead of returning it as `error` in the query's result.

        Returns:
            {"results": [{"index", "text", "input_text", "messages"}], "session_states": [messages, …]}.

        Raises:
            OptionError: the lengths of `queries` and `session_states` differ.
        """
        return self.offline_batch_stream(
            processor, queries, session_states, vision_chunked_length, raise_on_error
        ).wait()

    def offline_batch_stream(
        self,
        processor: MossVLProcessor,
        queries: Sequence[dict[str, Any] | str],
        session_states: Sequence[Sequence[Message]] | None = None,
        vision_chunked_length: int = 64,
        raise_on_error: bool = False,
    ) -> BatchStream:
        """Answer like `offline_batch_generate`, but stream text as it is generated; each query can be cancelled."""
        return BatchStream(
            self.engine(),
            processor,
            queries,
            session_states,
            raise_on_error,
            vision_chunked_length=vision_chunked_length,
        )

    def offline_generate(
        self,
        processor: MossVLProcessor,
        new_queries: "queue.Queue[Any]",
        output_text_queue: "queue.Queue[str]",
        vision_chunked_length: int = 64,
    ) -> None:
        """Answer queries from a queue, in one session, until {"stop_offline_generate": True} comes; run it in a thread.

        Each turn puts its text on `output_text_queue`, then `<|round_end|>`; with `stream_output`, `<|round_start|>`
        comes first and the text follows in chunks. A turn that fails puts `[ERROR] message` in place of its text.
        {"cancel_current_generate": True} and {"stop_generation": True} end the running turn.
        """
        loop = OfflineLoop(
            self.engine(), processor, new_queries, output_text_queue, vision_chunked_length=vision_chunked_length
        )
        loop.run()

    def _answer(self, processor: MossVLProcessor, query: dict[str, Any], **generate_kwargs: Any) -> str:
        query = {**query, "generate_kwargs": generate_kwargs}
        result = self.offline_batch_generate(processor, [query], raise_on_error=True)
        return str(result["results"][0]["text"])
