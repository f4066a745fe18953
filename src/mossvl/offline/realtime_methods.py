"""The published methods of realtime sessions, for the model class."""

from typing import TYPE_CHECKING, Any, cast

from mossvl.offline.online import OnlineLoop, real_time_loop
from mossvl.offline.realtime import FRAMES, RATE, MossVLRealtimeSession, WithEngine
from mossvl.processing.processor import MossVLProcessor

if TYPE_CHECKING:
    import queue


class RealtimeMethods:
    """Sessions that watch while they speak, as published; each runs in the model's engine, beside others."""

    _realtime_stops = 0

    def create_realtime_session(
        self,
        processor: MossVLProcessor,
        *,
        initial_prompt: str = "",
        system_prompt: str | None = None,
        frame_queue_size: int = FRAMES,
        max_tokens_per_turn: int = RATE,
        **generate_kwargs: Any,
    ) -> MossVLRealtimeSession:
        """Create a session; it begins with its first frame or prompt, or with `start`. See `MossVLRealtimeSession`."""
        return MossVLRealtimeSession(
            self._model,
            processor,
            initial_prompt=initial_prompt,
            system_prompt=system_prompt,
            frame_queue_size=frame_queue_size,
            max_tokens_per_turn=max_tokens_per_turn,
            **generate_kwargs,
        )

    def online_generate(
        self,
        processor: MossVLProcessor,
        new_queries: "queue.Queue[Any]",
        output_text_queue: "queue.Queue[str]",
        frame_queue_size: int = FRAMES,
        max_tokens_per_turn: int = RATE,
        **generate_kwargs: Any,
    ) -> None:
        """Take frames and prompts as dicts from a queue, until {"stop_online_generate": True} comes, in this thread.

        The first dict, or one with `reset_session` or `clear_history`, begins a session with its `initial_prompt`,
        `system_prompt`, `frame_queue_size`, `max_tokens_per_turn` and `generate_kwargs`. A dict holds an `event` or
        `events` (see `MossVLRealtimeSession.push_event`), a `prompt` or `text`, `frames`, or an `image` or `frame` with
        its `timestamp`; what one dict holds is given together. The session's strings go to `output_text_queue`; what
        cannot be used puts `[ERROR] message` there, and the loop goes on.
        """
        OnlineLoop(
            self._model,
            processor,
            new_queries,
            output_text_queue,
            frame_queue_size,
            max_tokens_per_turn,
            **generate_kwargs,
        ).run()

    def real_time_generate(
        self,
        new_video_frames: "queue.Queue[Any]",
        new_prompts: "queue.Queue[str]",
        output_text_queue: "queue.Queue[str]",
        processor: MossVLProcessor,
        max_tokens_per_turn: int = RATE,
        **generate_kwargs: Any,
    ) -> None:
        """Watch frames (images, or (image, time)) and answer prompts from two queues, until `stop_real_time_generate`.

        Raises:
            Exception: an input cannot be used, or the session has failed.
        """
        self.start_real_time_generate()
        stops = self._realtime_stops
        session = self.create_realtime_session(processor, max_tokens_per_turn=max_tokens_per_turn, **generate_kwargs)
        real_time_loop(session, new_video_frames, new_prompts, output_text_queue, lambda: self._realtime_stops != stops)

    def start_real_time_generate(self) -> None:
        """Do nothing: `real_time_generate` starts by itself (as published, it may be told to before)."""

    def stop_real_time_generate(self) -> None:
        """End all calls of `real_time_generate` that run now."""
        self._realtime_stops += 1

    @property
    def _model(self) -> WithEngine:
        return cast(WithEngine, self)
