"""A query on its way through the engine: its loading, its limits, and one request for each of its answers."""

import time
from collections import deque
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from mossvl.engine.clock import Clock
from mossvl.engine.prompts import Prompts
from mossvl.errors import GenerationCancelled, GenerationTimeout, MossVLError
from mossvl.forms.grammar import Follower
from mossvl.options import GenerationOptions, SamplingParams
from mossvl.queries.handle import Handle
from mossvl.queries.results import TokenLogprobs
from mossvl.queries.text_stream import TextStream
from mossvl.scheduling.context import Context
from mossvl.scheduling.prompt import Prompt
from mossvl.scheduling.request import Request
from mossvl.sources.source import Appended, Event, Frame, Loaded, Planned, Source, Stalled

STREAMING_BYTES = 32 << 20
"""Of a video that is read from a file for the first time, encoding begins when so much has been decoded."""


@dataclass(eq=False)
class Job:
    """A query in the engine.

    Attributes:
        follower: of the form of the answers, if they have one.
        options: of the query; `params`, which may be others, are for drawing tokens.
        deadline, patience: when the query's time is over, and when its source is given up (`time.monotonic`).
        digests: of its frames, as far as they are known; its requests share the list.
        loading: something is being loaded.
        submitted: its requests are with the scheduler.
        streams: its frames are worth encoding before all of them are loaded.
        open: what would end its answer parks it instead, as more may be appended; it ends when it is cancelled.
        appended: what is still to be appended to it.
    """

    source: Source
    options: GenerationOptions
    params: SamplingParams
    handle: Handle
    follower: Follower | None = None
    clock: Clock = field(default_factory=Clock)
    deadline: float = float("inf")
    patience: float = float("inf")
    digests: list[bytes | None] = field(default_factory=list)
    requests: "list[Request[Job]]" = field(default_factory=list)
    loading: bool = False
    submitted: bool = False
    streams: bool = False
    open: bool = False
    appended: deque[Appended] = field(default_factory=deque)
    _watches: list[TextStream | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.options.timeout is not None:
            self.deadline = self.clock.submitted + self.options.timeout

    @property
    def ended(self) -> bool:
        """Nothing more of it is wanted."""
        return self.handle.ended

    def reason_to_end(self, now: float) -> MossVLError | None:
        """Why the query must not go on, if there is a reason."""
        if self.handle.cancelled:
            return GenerationCancelled("cancelled before the answer was complete")
        if now > self.deadline:
            return GenerationTimeout(f"the query took longer than its timeout of {self.options.timeout:g} seconds")
        if self.follower is not None and (overdue := self.follower.overdue(now)) is not None:
            return overdue
        if self.loading and now > self.patience:
            limit = self.source.patience
            return GenerationTimeout(
                f"loading gave nothing for {limit:g} seconds", setting="MediaLimits.timeout", advice="; raise {}"
            )
        return None

    def be_patient(self) -> None:
        """The source has given a sign of life."""
        # What loads media keeps to the same limit and says more; this is for what does not come back at all.
        self.patience = time.monotonic() + 1.1 * self.source.patience

    def launched(self, request: "Request[Job]", now: float) -> None:
        """A step computes something of a request's prompts; `now` in seconds of `time.monotonic`."""
        if self.clock.admitted is None:
            self.clock.admitted = now
        # Encoded now, or found in the cache: their pixels are of no more use.
        self._drop(request, [frame for frame in request.pixels if frame < request.encoded])

    # --- media ---------------------------------------------------------------------------------------------------

    def receive(self, event: Event, prompts: Prompts) -> None:
        """What its source reports.

        Raises:
            ContextLengthError, PromptError: its prompt cannot be computed.
            BaseException: what loading has failed of.
        """
        self.be_patient()
        match event:
            case Planned():
                self.plan(event, *prompts.build(event.input_ids, event.grids, self.params.max_new_tokens))
            case Frame():
                self.take(event)
            case Stalled():
                self.patience = float("inf")
            case Loaded():
                self.loading = False
                if event.error is not None:
                    raise event.error

    def plan(self, planned: Planned, prompt: Prompt, room: int) -> None:
        """The prompt is known, and how many tokens an answer may have."""
        handle = self.handle
        handle.input_text, handle.media = planned.input_text, planned.media
        handle.prompt_tokens, handle.vision_tokens = prompt.end.row, prompt.end.vision
        self.digests, self.streams = planned.digests, planned.streams
        for number, draft in enumerate(handle.drafts):
            request = Request(
                Context(prompt, draft.tokens),
                self.params,
                room,
                self.digests,
                self,
                vision_chunk=self.options.vision_chunked_length,
                pixel_scale=self.source.pixel_scale,
                matcher=self.follower.matchers[number] if self.follower else None,
            )
            if self.params.seed is not None:
                request.seed = (self.params.seed + number) % 2**63
            self.requests.append(request)
            self._watches.append(TextStream(self.source.tokenizer, self.params.stop) if self.params.stop else None)

    def take(self, frame: Frame) -> None:
        """A frame has been loaded, or only its digest has become known."""
        self.digests[frame.number] = frame.digest
        if not frame.patches.numel():
            return
        wanting = [request for request in self.requests if not request.ended and frame.number not in request.pixels]
        if self.source.repeatable:
            # One of them takes it: the others find what it becomes in the caches, or have it loaded again.
            wanting = [request for request in wanting if request.encoded <= frame.number][:1]
        for request in wanting:
            request.pixels[frame.number] = frame.patches
        if not wanting:
            self.source.release(frame.patches)

    @property
    def may_begin(self) -> bool:
        """Enough has been loaded to begin, though not everything."""
        return self.streams and self.source.held >= STREAMING_BYTES

    def keeps(self, request: "Request[Job]", frame: int) -> bool:
        """A frame's pixels cannot be loaded once more: they are kept for as long as the request may need them."""
        return not self.source.repeatable or frame >= request.context.prompts[0].end.frame

    def give_up(self, request: "Request[Job]", missing: int) -> None:
        """A request lacks a frame from before others whose pixels it holds: it will have them all loaded once more.

        What it holds may be what loading waits for, and loading must end before it can begin again.
        """
        self._drop(request, [frame for frame in request.pixels if frame > missing])

    def _drop(self, request: "Request[Job]", frames: Iterable[int]) -> None:
        for frame in frames:
            if not self.keeps(request, frame):
                self.source.release(request.pixels.pop(frame))

    # --- more to be asked ----------------------------------------------------------------------------------------

    def append(self, prompts: Prompts) -> None:
        """What is to be appended follows all that is known, once no token is in flight.

        Raises:
            ContextLengthError, PromptError: it cannot be computed.
        """
        (request,) = self.requests
        if request.in_flight:
            request.hold()
            return
        while self.appended:
            more, end = self.appended.popleft(), request.context.end
            if not len(more.input_ids):
                self.go_on(request, prompts.room(end, more.room))
                continue
            prompt, room = prompts.build(more.input_ids, more.grids, more.room, end)
            request.extend(prompt, more.digests)
            request.pixels |= dict(enumerate(more.patches, prompt.begin.frame))
            self.handle.prompt_tokens += len(prompt.tokens)
            self.handle.vision_tokens += prompt.end.vision - prompt.begin.vision
            self.go_on(request, room)

    def go_on(self, request: "Request[Job]", room: int) -> None:
        """So many more tokens may be drawn; with 0, none until it is asked for."""
        request.room = request.num_answer + room
        if room:
            request.resume()
        else:
            request.hold()

    # --- answers -------------------------------------------------------------------------------------------------

    def add(
        self, request: "Request[Job]", token: int, logprobs: TokenLogprobs | None, now: float, ends: Container[int]
    ) -> bool:
        """Add a token to an answer, unless it ends it → whether the answer is complete, or an open one waits for more.

        Args:
            now: when it came, in seconds of `time.monotonic`.
            ends: the model's own end tokens.
        """
        self.clock.token(now)
        number = self.requests.index(request) if len(self.requests) > 1 else 0
        draft, params = self.handle.drafts[number], self.params
        stops = token in params.stop_token_ids or (token in ends and not params.ignore_eos)
        if stops and not self.open:
            draft.finish_reason = "stop"
            return True
        draft.tokens.append(token)
        draft.times.append(now)
        if logprobs is not None:
            draft.logprobs.append(logprobs)
        if self.open:
            return stops or request.num_answer >= request.room
        watch = self._watches[number]
        if watch is not None:
            watch.push([token])
        if watch is not None and watch.stopped:
            draft.finish_reason = "stop"
        elif request.num_answer >= request.room:
            draft.finish_reason = "length"
        return draft.finish_reason is not None
