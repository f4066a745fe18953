"""What stands behind the routes: the engine, the processes that decode, uploaded files, and their limits."""

import gc
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mossvl.errors import GenerationCancelled, ResourceError
from mossvl.llm import MossVL
from mossvl.media.limits import MediaLimits
from mossvl.options import MediaOptions
from mossvl.options.media import MAX_PIXELS
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.prompt import media_of
from mossvl.queries.handle import Handle
from mossvl.server.answers import Tokens
from mossvl.server.config import ServerConfig
from mossvl.server.errors import RequestError, refusal, unavailable
from mossvl.server.metrics import Metrics
from mossvl.server.preview import preview
from mossvl.server.problems import first_problem
from mossvl.server.protocol import ChatRequest, FramesRequest
from mossvl.server.reading import Asked, Reader, check_size
from mossvl.server.uploads import Uploads
from mossvl.sources.processes import LoadingProcesses, RemoteCall
from mossvl.version import __version__

logger = logging.getLogger("mossvl.server")

Body = TypeVar("Body", bound=BaseModel)
BLANK = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQAAAACCEkxzAAAAFElEQVR42mP8zwABTAyjjFEGyQwAzx8B"
    "f7QK4E8AAAAASUVORK5CYII="
)
"""A picture of 64 × 64 pixels."""
FIRST = {
    "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": BLANK}]}],
    "max_completion_tokens": 1,
}
"""What the model is asked before it is ready, so that nobody waits for what is compiled at first use."""
DATA_URL = re.compile(r"data:[^\"]{64,}", re.IGNORECASE)
"""Of a file: too long for a log."""


class Service:
    """Everything that requests share.

    Args:
        load: makes the model; called once, in a thread.
        name: what the model is called in answers.
    """

    def __init__(self, config: ServerConfig, load: Callable[[], MossVL], name: str) -> None:
        self.config, self.name = config, name
        self.metrics = Metrics()
        self.uploads = Uploads(config.upload_space, config.upload_seconds)
        self.stopping, self.created = False, int(time.time())
        self.failed: BaseException | None = None
        self._load = load
        self._ready: _Ready | None = None
        self._admitting = threading.Lock()
        self._beginning = 0
        """Requests that are admitted, and that the engine does not know yet."""

    # --- beginning and end ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Load the model, start the processes, and answer something once, so that the first client need not wait.

        Raises:
            MossVLError: the model cannot be loaded, or cannot answer.
        """
        llm = self._load()
        processor = llm.processor
        self.config = self.config.on(llm.engine.runner.device.type)
        show_no_larger(processor, self.config.max_pixels or MAX_PIXELS)
        processor.limits = self._media_limits()
        count = self.config.decoders + self.previews
        decoding = LoadingProcesses(processor, count, self.config.decoder_memory, llm.engine.budget)
        reader = Reader(
            self.config, processor.video_processor.max_frames, lambda file_id: str(self.uploads.get(file_id).path)
        )
        ready = _Ready(llm, decoding, reader, Tokens(processor.tokenizer))
        try:
            decoding.warm_up(self.config.timeout)
            llm.engine.warm_up(shown=False)
            first = reader.read(ChatRequest.model_validate(FIRST))
            ready.begin(first).result(self.config.timeout)
        except BaseException:
            ready.close()
            raise
        self.metrics.watch(llm.engine)
        gc.collect()
        gc.freeze()  # What is here now stays: a collector that looked through it again would stop everything meanwhile.
        self._ready = ready

    def cancel_all(self) -> None:
        """End what still runs, with an error."""
        if self._ready is not None:
            self._ready.llm.close()

    def close(self) -> None:
        """End everything; what still runs is cancelled."""
        self.stopping = True
        if self._ready is not None:
            self._ready.close()
        self.uploads.close()

    @property
    def ready(self) -> "_Ready":
        """What answers.

        Raises:
            RequestError: it is not there yet, or not any more.
        """
        if self.stopping:
            raise stopping()
        if self._ready is None:
            raise unavailable("loading", "the model is being loaded; try again soon")
        if (broken := self._ready.llm.engine.broken) is not None:
            raise broken
        return self._ready

    @property
    def broken(self) -> BaseException | None:
        """Why nothing will be answered any more."""
        return self.failed or (self._ready.llm.engine.broken if self._ready is not None else None)

    # --- requests ------------------------------------------------------------------------------------------------

    def begin(self, body: bytes, request_id: str) -> tuple[Asked, Handle]:
        """Begin to answer a request of that id.

        Raises:
            MossVLError: the request cannot be used, or is one too many.
        """
        ready = self.ready
        asked = ready.reader.read(parsed(ChatRequest, body))
        if self.config.log_content:
            logger.info("%s asks: %r", request_id, DATA_URL.sub("data:…", body.decode(errors="replace")))
        engine = ready.llm.engine
        with self._admitting:
            active = engine.active + self._beginning
            if active >= engine.config.max_batch + self.config.max_queue:
                raise unavailable(
                    "overloaded", f"{active} requests are being answered or wait; try again later (--max-queue)"
                )
            self._beginning += 1
        try:
            return asked, ready.begin(asked)
        finally:
            with self._admitting:
                self._beginning -= 1

    def frames(self, body: bytes) -> RemoteCall[dict[str, Any]]:
        """A call that tells what the model would see of a medium.

        Raises:
            MossVLError: the request cannot be used.
        """
        ready = self.ready
        request = parsed(FramesRequest, body)
        options = MediaOptions.from_dict(ready.reader.shared([request.part], "part"))
        part = ready.reader.medium(request.part, "part")
        timeout = self.config.media_timeout
        return ready.decoding.call(preview, part, options, request.thumbnails, timeout=timeout)

    @property
    def previews(self) -> int:
        """How many of these calls may run at a time; each has a process beside those of requests."""
        return max(1, self.config.decoders // 2)

    def told(self, error: BaseException) -> RequestError:
        """What an error is to a client, who knows uploaded files by their own names."""
        if self.stopping and isinstance(error, GenerationCancelled):
            error = stopping()
        if isinstance(error, ResourceError):
            logger.error("a request was refused: %s", error)  # Whoever runs this machine can help.
        refused = refusal(error)
        message = self.uploads.by_their_names(str(refused))
        return RequestError(refused.status, refused.code, message, refused.param, refused.retry_after)

    def described(self) -> dict[str, Any]:
        """The model, and what may be asked of it.

        Raises:
            RequestError: it is not loaded.
        """
        llm, config = self.ready.llm, self.config
        images, videos = llm.processor.image_processor, llm.processor.video_processor
        media = {
            "fps": videos.video_fps,
            "min_frames": videos.min_frames,
            "max_frames": videos.max_frames,
            "min_pixels": images.size["shortest_edge"],
            "max_pixels": videos.size["longest_edge"],
            "video_max_pixels": videos.video_max_pixels,
        }
        caps = {
            "max_media": config.max_media,
            "max_frames": config.max_frames,
            "max_pixels": config.max_pixels,
            "max_tokens": config.max_tokens,
            "max_duration": config.max_duration,
            "max_upload_bytes": config.max_download,
        }
        context = llm.model.config.text_config.max_position_embeddings
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "mossvl",
            "mossvl": {"version": __version__, "context": context, "media": media, "caps": caps},
        }

    def _media_limits(self) -> MediaLimits:
        config = self.config
        return MediaLimits(
            image_pixels=config.max_image_pixels,
            download_bytes=config.max_download,
            timeout=config.media_timeout,
            duration=config.max_duration,
            sources=replace(config.sources, directories=(*config.media_dirs, self.uploads.folder)),
        )


class _Ready:
    """A model that is loaded, and what belongs to it."""

    def __init__(self, llm: MossVL, decoding: LoadingProcesses, reader: Reader, tokens: Tokens) -> None:
        self.llm, self.decoding, self.reader, self.tokens = llm, decoding, reader, tokens

    def begin(self, asked: Asked) -> Handle:
        """A prompt without media needs no decoder, and waits for none."""
        query = asked.query
        messages = query.messages([])
        if not any(media_of(messages)):
            return self.llm.engine.submit(query, messages, self.llm.processor, asked.params, whole=True)
        return self.llm.engine.begin(self.decoding.load(query, messages), query.generation, asked.params, whole=True)

    def close(self) -> None:
        for part in (self.llm, self.decoding):
            part.close()


def show_no_larger(processor: MossVLProcessor, max_pixels: int) -> None:
    """Images and frames have at most so many pixels where a request does not say."""
    for one in (processor.image_processor, processor.video_processor):
        least = min(one.size["shortest_edge"], max_pixels)
        one.size = {"shortest_edge": least, "longest_edge": min(one.size["longest_edge"], max_pixels)}


def stopping() -> RequestError:
    return unavailable("stopping", "the server is being stopped")


def parsed(form: type[Body], body: bytes) -> Body:
    """A request's body in its form.

    Raises:
        RequestError: it is not of that form; says where.
    """
    check_size(body)
    try:
        return form.model_validate_json(body)
    except ValidationError as problems:
        raise first_problem(problems, form) from problems
