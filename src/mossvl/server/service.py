"""State behind the routes: the engine, the decoder processes, the uploads and their limits."""

import copy
import logging
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from anyio import CapacityLimiter
from pydantic import BaseModel, ValidationError

from mossvl.errors import EngineError, GenerationCancelled, MossVLError, ResourceError
from mossvl.llm import MossVL
from mossvl.media.limits import MediaLimits
from mossvl.options import MediaOptions
from mossvl.options.engine import check_apart
from mossvl.options.media import MAX_PIXELS
from mossvl.processing.messages import media_of
from mossvl.processing.processor import MossVLProcessor
from mossvl.queries.handle import Handle
from mossvl.queries.query import PlainPrompt
from mossvl.server.answers import Tokens
from mossvl.server.config import ServerConfig
from mossvl.server.errors import RequestError, refusal, stopping, unavailable
from mossvl.server.exchange import Caller, Exchange
from mossvl.server.interpreter import serving
from mossvl.server.metrics import Metrics
from mossvl.server.preview import preview
from mossvl.server.problems import first_problem
from mossvl.server.reading import Asked, Reader, check_size
from mossvl.server.schemas.chat import ChatRequest
from mossvl.server.schemas.frames import FramesRequest
from mossvl.server.stored import StoredResponses
from mossvl.server.uploads import Uploads
from mossvl.sources.plain import PlainLoad
from mossvl.sources.processes import LoadingProcesses, RemoteCall

logger = logging.getLogger("mossvl.server")

Body = TypeVar("Body", bound=BaseModel)
T = TypeVar("T")
BLANK = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQAAAACCEkxzAAAAFElEQVR42mP8zwABTAyjjFEGyQwAzx8B"
    "f7QK4E8AAAAASUVORK5CYII="
)
"""A blank image of 64 × 64 pixels."""
FIRST = {
    "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": BLANK}]}],
    "max_completion_tokens": 1,
}
"""Warm-up request, so that no client waits for first-use compilation."""
DATA_URL = re.compile(r"data:[^\"]{64,}", re.IGNORECASE)
"""Data URLs that are too long for the log."""


@dataclass(frozen=True)
class Place:
    """Where a server stands among replicas; by default, alone.

    Attributes:
        folder: of uploads and stored responses, which all replicas share; None for one of its own.
        mark: ends the ids of the replica's stored responses, and tells which replica has their keys and values.
        name: of the replica, in the log.
    """

    folder: Path | None = None
    mark: str = ""
    name: str = ""


class Service:
    """State that all requests share.

    Args:
        load: loads the model; called once, in a thread.
        name: the model's name in responses.
    """

    def __init__(self, config: ServerConfig, load: Callable[[], MossVL], name: str, place: Place | None = None) -> None:
        self.config, self.name, self.place = config, name, place or Place()
        self.metrics = Metrics()
        shared = self.place.folder
        self.uploads = Uploads(config.upload_space, config.upload_seconds, shared)
        self.responses = StoredResponses(config.response_space, config.response_seconds, config.max_responses, shared)
        self.checks = CapacityLimiter(max(2, os.cpu_count() or 1))
        """Of the checks of answers' forms, each of which may take a core for long: no other request waits for them."""
        self.stopping, self.created = False, int(time.time())
        self.live_sessions = 0
        """Open live sessions."""
        self.endings: list[Callable[[], Awaitable[None]]] = []
        """What is to be ended before the server closes its connections."""
        self.failed: BaseException | None = None
        self.when_ready: Callable[[], None] = lambda: None
        self._load = load
        self._serving = ExitStack()
        self._ready: _Ready | None = None
        self._admitting = threading.Lock()
        self._beginning = 0
        """Admitted requests that are not submitted to the engine yet."""

    # --- start and end -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Load the model, start the decoders, and answer a warm-up request.

        Raises:
            MossVLError: the model cannot be loaded or cannot answer.
        """
        llm = self._load()
        check_apart(llm.engine.adapters.names, self.name)
        processor = own_processor(llm.processor)
        llm = MossVL.of(llm.engine, processor)
        self.config = self.config.on(llm.engine.runner.device.type)
        show_no_larger(processor, self.config.max_pixels or MAX_PIXELS)
        processor.limits = self._media_limits()
        decoding, previewing = (
            LoadingProcesses(processor, count, self.config.decoder_memory, llm.engine.media_budget)
            for count in (self.config.decoders, self.previews)
        )
        most_frames, knows_tools = processor.video_processor.max_frames, processor.knows_tools

        def reader(key: str) -> Reader:
            return Reader(
                self.config, most_frames, lambda file_id: str(self.uploads.get(key, file_id).path), knows_tools
            )

        ready = _Ready(llm, decoding, previewing, reader, Tokens(processor.tokenizer))
        try:
            for processes in (decoding, previewing):
                processes.warm_up(self.config.timeout)
            llm.engine.warm_up(shown=False)
            first = reader("").read(ChatRequest.model_validate(FIRST))
            ready.begin(first).result(self.config.timeout)
        except BaseException:
            ready.close()
            raise
        self.metrics.watch(llm.engine)
        self._serving.enter_context(serving())
        self._ready = ready

    def cancel_all(self) -> None:
        """End running requests with an error."""
        if self._ready is not None:
            self._ready.llm.close()

    def close(self) -> None:
        """Cancel running requests and free all resources."""
        self.stopping = True
        if self._ready is not None:
            self._ready.close()
        self._serving.close()
        self.uploads.close()
        self.responses.close()

    @property
    def ready(self) -> "_Ready":
        """The loaded model and what belongs to it.

        Raises:
            EngineError: the device has failed.
            RequestError: the model is still loading, or the server is stopping.
        """
        if self.stopping:
            raise stopping()
        if self._ready is None:
            raise unavailable("loading", "the model is being loaded; try again soon")
        if (broken := self._ready.llm.engine.broken) is not None:
            raise broken
        return self._ready

    @property
    def is_ready(self) -> bool:
        """Whether the model is loaded and has answered."""
        return self._ready is not None

    @property
    def broken(self) -> BaseException | None:
        """The error that made the server unusable, if there is one."""
        return self.failed or (self._ready.llm.engine.broken if self._ready is not None else None)

    # --- requests ------------------------------------------------------------------------------------------------

    def exchange(self, kind: type[Exchange[Any]], body: bytes, request_id: str, key: str) -> Exchange[Any]:
        """Parse a request of an API.

        Args:
            key: stands for the API key that the request brought.

        Raises:
            MossVLError: the body does not match the API's schema.
        """
        ready, request = self.ready, parsed(kind.form, body)
        lora = self.lora_of(getattr(request, "model", None))
        mark = self.place.mark
        return kind(request, Caller(request_id, key, lora or self.name, ready.tokens, self.responses, lora, mark))

    def lora_of(self, model: str | None) -> str | None:
        """The adapter that a request names as its `model`; None for the model itself, by whatever name."""
        names = () if self._ready is None else self._ready.llm.engine.adapters.names
        return model if model in names else None

    def begin(self, exchange: Exchange[Any], body: bytes) -> None:
        """Check a request and submit its queries to the engine; to check the form of an answer may take long.

        Raises:
            MossVLError: the request cannot be used, or the queue is full.
        """
        ready = self.ready
        try:
            queries = exchange.asked(ready.reader(exchange.caller.key))
        except MossVLError as error:
            raise exchange.placed(error) from error
        if self.config.log_content:
            asked = DATA_URL.sub("data:…", body.decode(errors="replace"))
            logger.info("%s asks: %r", exchange.caller.request_id, asked)
        engine, count = ready.llm.engine, len(queries)
        with self._admitting:
            active = engine.active + self._beginning
            if active + count > engine.config.max_batch + self.config.max_queue:
                raise unavailable(
                    "overloaded", f"{active} requests are running or waiting; try again later (--max-queue)"
                )
            self._beginning += count
        try:
            exchange.handles = ready.begin_all(queries, exchange.caller.lora)
            self.metrics.queries.labels(exchange.caller.model).inc(count)
        except MossVLError as error:
            raise exchange.placed(error) from error
        finally:
            with self._admitting:
                self._beginning -= count

    def frames(self, body: bytes, key: str) -> RemoteCall[dict[str, Any]]:
        """Return a call that previews a medium in a decoder process.

        Raises:
            MossVLError: the request cannot be used.
        """
        reader, request = self.ready.reader(key), parsed(FramesRequest, body)
        options = MediaOptions.from_dict(reader.shared([request.part], "part"))
        return self.errand(preview, reader.medium(request.part, "part"), options, request.thumbnails)

    def errand(self, work: Callable[..., T], *given: Any) -> RemoteCall[T]:
        """Return a call of `work`, with the processor before what is given, in a decoder process of previews."""
        return self.ready.previewing.call(work, *given, timeout=self.config.media_timeout)

    @property
    def previews(self) -> int:
        """How many previews may run at a time; each has a decoder process beside those of requests."""
        return max(1, self.config.decoders // 2)

    def told(self, error: BaseException) -> RequestError:
        """Return an error as a refusal, in which uploaded files have their clients' names."""
        if self.stopping and self.broken is None and isinstance(error, GenerationCancelled | EngineError):
            error = stopping()
        if isinstance(error, ResourceError):
            logger.error("a request was refused: %s", error)  # The operator can free resources.
        refused = refusal(error)
        message = self.uploads.by_their_names(str(refused))
        return RequestError(refused.status, refused.code, message, refused.param, refused.retry_after)

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
    """A loaded model with the decoders of requests and of previews, the request reader of a key, and tokens."""

    def __init__(
        self,
        llm: MossVL,
        decoding: LoadingProcesses,
        previewing: LoadingProcesses,
        reader: Callable[[str], Reader],
        tokens: Tokens,
    ) -> None:
        self.llm, self.decoding, self.previewing, self.reader, self.tokens = llm, decoding, previewing, reader, tokens

    def begin_all(self, queries: Sequence[Asked], lora: str | None) -> list[Handle]:
        """Submit queries that belong together: all, or none."""
        handles = []
        with ExitStack() as undo:
            for asked in queries:
                handle = self.begin(asked, lora)
                undo.callback(handle.cancel)
                handles.append(handle)
            undo.pop_all()
        return handles

    def begin(self, asked: Asked, lora: str | None = None) -> Handle:
        """Submit a query to an adapter, or to the model; its media, if any, are loaded by a decoder process."""
        engine, query = self.llm.engine, asked.query
        if isinstance(query, PlainPrompt):
            source = PlainLoad(query, self.llm.processor, engine.media_budget)
            return engine.begin(source, query.generation, asked.params, whole_characters=True, lora=lora)
        query = replace(query, lora=lora)
        messages = query.messages([])
        if not any(media_of(messages)):
            return engine.submit(query, messages, self.llm.processor, asked.params, whole_characters=True)
        loading = self.decoding.load(query, messages, asked.params.priority)
        return engine.begin(
            loading, query.generation, asked.params, whole_characters=True, calls=query.ending_calls, lora=lora
        )

    def close(self) -> None:
        for part in (self.llm, self.decoding, self.previewing):
            part.close()


def own_processor(processor: MossVLProcessor) -> MossVLProcessor:
    """Return a copy with settings of its own: a program may use the processor beside the server, and after it."""
    own = copy.copy(processor)
    own.image_processor, own.video_processor = map(copy.copy, (processor.image_processor, processor.video_processor))
    return own


def show_no_larger(processor: MossVLProcessor, max_pixels: int) -> None:
    """Lower the processor's default `max_pixels` of images and frames."""
    for one in (processor.image_processor, processor.video_processor):
        least = min(one.size["shortest_edge"], max_pixels)
        one.size = {"shortest_edge": least, "longest_edge": min(one.size["longest_edge"], max_pixels)}


def parsed(form: type[Body], body: bytes) -> Body:
    """Parse a body by its schema.

    Raises:
        RequestError: the body does not match the schema; `param` names the field.
    """
    check_size(body)
    try:
        return form.model_validate_json(body)
    except ValidationError as problems:
        raise first_problem(problems, form) from problems
