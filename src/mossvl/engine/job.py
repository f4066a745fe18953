"""A query in the engine: its source, its deadlines, and one request for each of its answers."""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from mossvl.engine.director import Director, Renewed
from mossvl.engine.prompts import Prompts
from mossvl.engine.timeline import Timeline
from mossvl.errors import GenerationCancelled, GenerationTimeout, MossVLError
from mossvl.forms.grammar import Follower
from mossvl.options import GenerationOptions, SamplingParams
from mossvl.queries.handle import Handle
from mossvl.queries.results import Logprob, TokenLogprobs
from mossvl.queries.text_stream import TextStream
from mossvl.scheduling.context import Context
from mossvl.scheduling.pages import NO_ADAPTER
from mossvl.scheduling.prompt import Prompt
from mossvl.scheduling.request import Request
from mossvl.sources.source import Appended, Event, Frame, Loaded, Planned, Source, Stalled, Waiting

IDLE_SECONDS = 0.02
"""Longest wait for an event between two checks of deadlines."""
STREAMING_BYTES = 32 << 20
"""Encoding of a video that is not in the media cache begins when so many bytes of pixels have been decoded."""


@dataclass(eq=False)
class Job:
    """A query in the engine.

    Attributes:
        ends: end tokens of the model.
        follower: of the answers' grammar, if they have one.
        options: of the query; `params`, which may differ, are the sampling parameters.
        deadline: when the query times out, in seconds of `time.monotonic`.
        patience: when the source times out, unless it reports something before.
        adapter: index of the adapter of its requests.
        adapted_vision: the adapter changes the vision tokens of frames.
        digests: of the frames, and of the adapter if it changes them; None until known. The requests share the list.
        loading: the source is loading.
        submitted: the scheduler has the requests.
        streams: encoding may begin before all frames are loaded.
        open: prompts may be appended. An end token or the maximum length parks the request; cancelling ends the job.
        appended: prompts that wait to be appended, FIFO.
        director: decides what an open job does next, which is a live session's; None where others append.
        reserved: pages that are reserved for a live session.
    """

    source: Source
    options: GenerationOptions
    params: SamplingParams
    handle: Handle
    ends: frozenset[int]
    follower: Follower | None = None
    timeline: Timeline = field(default_factory=Timeline)
    deadline: float = float("inf")
    patience: float = float("inf")
    adapter: int = NO_ADAPTER
    adapted_vision: bool = False
    digests: list[bytes | None] = field(default_factory=list)
    requests: "list[Request[Job]]" = field(default_factory=list)
    loading: bool = False
    submitted: bool = False
    streams: bool = False
    open: bool = False
    appended: deque[Appended] = field(default_factory=deque)
    director: Director | None = None
    reserved: int = 0
    _undecided: bool = True
    _watches: list[TextStream | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.options.timeout is not None:
            self.deadline = self.timeline.submitted + self.options.timeout

    @property
    def ended(self) -> bool:
        """Whether the query has ended; its handle knows."""
        return self.handle.ended

    @property
    def stops(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return frozenset(self.params.stop_token_ids) | (frozenset() if self.params.ignore_eos else self.ends)

    def reason_to_end(self, now: float) -> MossVLError | None:
        """The reason to end the query now, or None."""
        if self.handle.cancel_requested:
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

    def end(self, error: Exception | None) -> None:
        """Stop the query's source and processes, and end its handle, from any thread."""
        self.source.stop()
        if self.follower is not None:
            self.follower.stop()
        if error is not None:
            # The handle keeps the error; its traceback would keep pixels and caches alive.
            error = error.with_traceback(None)
        self.handle.timings = self.timeline.timings(max(len(draft.tokens) for draft in self.handle.drafts))
        self.handle.end(error)

    def be_patient(self) -> None:
        """Set the source's time-out anew."""
        # The source enforces the same limit with a better message; this one is for a source that hangs.
        self.patience = time.monotonic() + 1.1 * self.source.patience

    def record_launch(self, request: "Request[Job]", now: float) -> None:
        """Record that a step computes a request's prompts; `now` in seconds of `time.monotonic`."""
        if self.timeline.admitted is None:
            self.timeline.admitted = now
        # Encoded frames, and prefix-cache hits, need no pixels.
        self._drop(request, [frame for frame in request.pixels if frame < request.encoded])

    # --- media ---------------------------------------------------------------------------------------------------

    def receive(self, event: Event, prompts: Prompts) -> None:
        """Take in an event of the source.

        Raises:
            ContextLengthError, PromptError: the prompt cannot be computed.
            BaseException: the error with which loading has failed.
        """
        self.be_patient()
        match event:
            case Planned():
                self.make_requests(event, *prompts.build(event.input_ids, event.grids, self.params.max_new_tokens))
            case Frame():
                self.take(event)
            case Stalled():
                self.patience = float("inf")
            case Waiting():
                pass  # The source is alive: `be_patient` has set its time-out anew.
            case Loaded():
                self.loading = False
                if event.error is not None:
                    raise event.error

    def make_requests(self, planned: Planned, prompt: Prompt, room: int) -> None:
        """Make the requests, from the prompt and the maximum number of answer tokens."""
        handle = self.handle
        handle.input_text, handle.media = planned.input_text, planned.media
        handle.prompt_tokens, handle.vision_tokens = prompt.end.row, prompt.end.vision
        self.digests, self.streams = [self._own(digest) for digest in planned.digests], planned.streams
        scored = self.params.prompt_logprobs is not None
        if scored:
            handle.prompt_logprobs = [None] * len(prompt.tokens)
        for number, draft in enumerate(handle.drafts):
            request = Request(
                Context(prompt, draft.tokens),
                self.params,
                room,
                self.digests,
                self,
                stops=self.stops,
                adapter=self.adapter,
                scores_from=first_scored(planned, len(prompt.tokens)) if scored and not number else None,
                vision_chunk=self.options.vision_chunked_length,
                pixel_scale=self.source.pixel_scale,
                matcher=self.follower.matchers[number] if self.follower else None,
                live=self.director is not None,
                reserved=self.reserved,
                spared=None if self.director is None else self.director.spared,
            )
            if self.params.seed is not None:
                request.seed = (self.params.seed + number) % 2**63
            self.requests.append(request)
            self._watches.append(self.handle.watch())

    def take(self, frame: Frame) -> None:
        """Take in a frame, or only its digest."""
        self.digests[frame.number] = self._own(frame.digest)
        if not frame.patches.numel():
            return
        wanting = [request for request in self.requests if not request.ended and frame.number not in request.pixels]
        if self.source.repeatable:
            # Give pixels to one sibling; the others hit the vision cache or reload.
            wanting = [request for request in wanting if request.encoded <= frame.number][:1]
        for request in wanting:
            request.pixels[frame.number] = frame.patches
        if not wanting:
            self.source.release(frame.patches)

    def _own(self, digest: bytes | None) -> bytes | None:
        """What tells the vision tokens of a frame from others, by the digest of its pixels."""
        return digest if digest is None or not self.adapted_vision else digest + self.adapter.to_bytes(4)

    @property
    def may_begin(self) -> bool:
        """Whether encoding may begin before everything is loaded."""
        return self.streams and self.source.held >= STREAMING_BYTES

    def keeps(self, request: "Request[Job]", frame: int) -> bool:
        """Whether pixels of a frame are kept until the request ends, since they cannot be loaded again."""
        return not self.source.repeatable or frame >= request.context.prompts[0].end.frame

    def give_up(self, request: "Request[Job]", missing: int) -> None:
        """Release the pixels of all frames after a missing one; they will be loaded again with it.

        A running load may wait for the memory that these pixels take, and must end before a new load begins.
        """
        self._drop(request, [frame for frame in request.pixels if frame > missing])

    def _drop(self, request: "Request[Job]", frames: Iterable[int]) -> None:
        for frame in frames:
            if not self.keeps(request, frame):
                self.source.release(request.pixels.pop(frame))

    # --- directed jobs -------------------------------------------------------------------------------------------

    @property
    def idle_seconds(self) -> float:
        """How long the loop may wait for an event, if there is nothing to compute."""
        if self.director is None or self._undecided or not self.submitted:
            return IDLE_SECONDS
        return self.director.wait(self._draws_on)

    @property
    def _draws_on(self) -> bool:
        """Whether the only request draws on without being asked."""
        (request,) = self.requests
        return not request.parked and not request.ended and request.num_drawn < request.max_answer

    def direct(self, prompts: Prompts) -> "Request[Job] | None":
        """Ask the director what comes next, once the last token is known; return a request that is to be replaced.

        Raises:
            Exception: what the director has decided cannot be computed.
        """
        assert self.director is not None
        (request,) = self.requests
        if self._undecided or self.director.wait(self._draws_on) > 0:
            return None
        if request.in_flight:
            request.hold()
            return None
        following = self.director.next(request.context)
        if following is None:
            request.hold()
        elif isinstance(following, Renewed):
            self._renew(following, prompts)
            return request
        else:
            self.appended.append(following)
            self.append(prompts)
        return None

    def lose(self) -> None:
        """Take in that the request has ended, as its pages were taken and cannot be computed anew."""
        assert self.director is not None
        self._undecided = False
        self.director.lost()

    def _renew(self, renewed: Renewed, prompts: Prompts) -> None:
        """Put a new request in place of the old one, with the prompt and its pixels."""
        prompt, room = prompts.build(renewed.input_ids, renewed.grids, renewed.room)
        (old,) = self.requests
        self.digests = [self._own(digest) for digest in renewed.digests]
        self.handle.drafts[0].tokens = []
        context = Context(prompt, self.handle.drafts[0].tokens)
        request = Request(
            context,
            self.params,
            0,
            self.digests,
            self,
            pixels=dict(enumerate(renewed.patches)),
            vision_chunk=self.options.vision_chunked_length,
            pixel_scale=self.source.pixel_scale,
            adapter=self.adapter,
            live=True,
            reserved=self.reserved,
            spared=old.spared,
            seed=(old.seed * 6364136223846793005 + 1442695040888963407) % 2**63,
        )
        self.requests = [request]
        self._let_draw(request, room)

    # --- appended prompts ----------------------------------------------------------------------------------------

    def append(self, prompts: Prompts) -> None:
        """Append the waiting prompts to the request, once no token is in flight.

        Raises:
            ContextLengthError, PromptError: a prompt cannot be computed.
        """
        (request,) = self.requests
        if request.in_flight:
            request.hold()
            return
        while self.appended:
            more, end = self.appended.popleft(), request.context.end
            self._leave(request, more.left)
            left = request.context.unseen(request.context.length - 1)
            if not len(more.input_ids):
                self.go_on(request, prompts.room(end, more.room, left))
                continue
            prompt, room = prompts.build(more.input_ids, more.grids, more.room, end, left)
            request.extend(prompt, [self._own(digest) for digest in more.digests])
            request.pixels |= dict(enumerate(more.patches, prompt.begin.frame))
            self.handle.prompt_tokens += len(prompt.tokens)
            self.handle.vision_tokens += prompt.end.vision - prompt.begin.vision
            self.go_on(request, room)

    def _leave(self, request: "Request[Job]", frames: int) -> None:
        """Let the first frames leave, and their pixels, unless what was computed before is being computed anew."""
        if frames > request.context.num_left:
            request.leave(frames)
        for frame in [one for one in request.pixels if one < min(frames, request.encoded)]:
            del request.pixels[frame]

    def go_on(self, request: "Request[Job]", room: int) -> None:
        """Let the request draw `room` more tokens; with 0, park it."""
        self._let_draw(request, room)
        if room:
            request.resume()

    def _let_draw(self, request: "Request[Job]", room: int) -> None:
        request.max_answer, self._undecided = request.num_answer + room, room > 0
        if not room:
            request.hold()

    # --- answers -------------------------------------------------------------------------------------------------

    def tell_prompt(
        self, request: "Request[Job]", place: int, logprob: float, rank: int, best: Iterable[tuple[int, float]]
    ) -> None:
        """Add the log-probability of the prompt's token at a place, and of the likeliest tokens there, best first."""
        told = {request.context.prompts[0].tokens[place]: Logprob(logprob, rank)}
        for number, (token, other) in enumerate(islice(best, self.params.prompt_logprobs), 1):
            told.setdefault(token, Logprob(other, number))
        assert self.handle.prompt_logprobs is not None
        self.handle.prompt_logprobs[place] = told

    def add(self, request: "Request[Job]", token: int, logprobs: TokenLogprobs | None, now: float) -> bool:
        """Add a token to an answer, unless the token ends it; return whether the answer ends, or an open one parks.

        Args:
            now: when the token arrived, in seconds of `time.monotonic`.
        """
        if self.director is not None:
            return self._add_directed(request, token)
        self.timeline.token(now)
        number = self.requests.index(request) if len(self.requests) > 1 else 0
        draft = self.handle.drafts[number]
        stops = token in request.stops
        if stops and not self.open:
            draft.finish_reason = "stop"
            return True
        draft.tokens.append(token)  # The request's context shares this list.
        draft.times.append(now)
        if logprobs is not None:
            draft.logprobs.append(logprobs)
        if self.open:
            return stops or request.num_answer >= request.max_answer
        watch = self._watches[number]
        if watch is not None:
            watch.push([token])
        if watch is not None and watch.stopped:
            draft.finish_reason = "stop"
        elif request.num_answer >= request.max_answer:
            draft.finish_reason = "length"
        return draft.finish_reason is not None

    def changed(self) -> None:
        """Wake readers."""
        if self.director is None:
            self.handle.changed()
        else:
            self.director.changed()

    def _add_directed(self, request: "Request[Job]", token: int) -> bool:
        """As `add`: the context keeps the token, and the director says whether it is the last one for now."""
        assert self.director is not None
        self._undecided = False
        request.context.answer.append(token)
        return self.director.drawn(token) or request.num_answer >= request.max_answer


def first_scored(planned: Planned, length: int) -> int:
    """Return the first row of a prompt after which a token is scored: of all tokens, or of the continuation alone."""
    return length - 1 - planned.continued if planned.continued else 0
