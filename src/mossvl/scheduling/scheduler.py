"""What runs next: decides which frames, prompt tokens and answer tokens make up a step. No tensors here.

`plan` decides and allocates pages; the engine carries the step out and then calls `launched`, or, if that failed, tries
what is planned for each request apart. Requests are admitted in the order in which they came, and computed in the order
in which they were admitted.
"""

from collections import deque
from collections.abc import Container
from itertools import islice
from typing import Generic

from mossvl.options.engine import EngineConfig
from mossvl.scheduling.allocator import Allocator
from mossvl.scheduling.budget import StepBudget
from mossvl.scheduling.pages import PageCache
from mossvl.scheduling.request import Owner, Request
from mossvl.scheduling.step import FrameSpan, RowSpan, Step

FEW, MANY = 2, 8
"""Up to FEW prompts, or one for MANY requests that generate, are computed in small parts beside them."""
LOOK_AHEAD = 256
"""How many waiting requests are looked at for one that need not wait for another's prompt."""


class Scheduler(Generic[Owner]):
    """Owner of all scheduling state.

    Args:
        groups: pages that one block of text needs.
        encoded: digests of frames that need no pixels, because their encoding is kept.
        budget: bounds of a step; by default, those of a GPU.
    """

    def __init__(
        self,
        config: EngineConfig,
        cache: PageCache,
        groups: int,
        encoded: Container[bytes] = (),
        budget: StepBudget | None = None,
    ) -> None:
        self.config = config
        self.cache = cache
        self.pages: Allocator[Owner] = Allocator(cache, groups, config.page_size)
        self.encoded = encoded
        self.budget = budget or StepBudget.of(config)
        self.waiting: deque[Request[Owner]] = deque()
        self.running: list[Request[Owner]] = []
        self.preemptions = 0
        self._slots = list(range(config.max_batch - 1, -1, -1))
        self._computing: dict[bytes, Request[Owner]] = {}

    # --- requests come and go ------------------------------------------------------------------------------------

    def add(self, request: Request[Owner]) -> None:
        self.waiting.append(request)

    def remove(self, request: Request[Owner]) -> None:
        """The request has ended, whatever it was doing."""
        if request.slot >= 0:
            self._release(request)
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        request.ended = True

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    # --- deciding ------------------------------------------------------------------------------------------------

    def plan(self) -> Step[Owner]:
        step: Step[Owner] = Step()
        self._decode(step)
        self._admit()
        step.copies, self.pages.copies = self.pages.copies, []
        self._prefill(step)
        return step

    def _decode(self, step: Step[Owner]) -> None:
        """Pages for all that go on, and one row for each that generates; others are preempted when pages run out."""
        for request in list(self.running):
            if request.slot < 0 or not (request.wants_token if request.decoding else not request.rests):
                continue
            if self._grow(request) and request.decoding:
                step.decode.append(request)

    def _grow(self, request: Request[Owner]) -> bool:
        """Give a request the pages that it lacks; False if it had to be preempted itself."""
        while self.cache.available < self.pages.lacking(request):
            victim = self._victim(request)
            self._preempt(victim)
            if victim is request:
                return False
        self.pages.grow(request)
        return True

    def _victim(self, request: Request[Owner]) -> Request[Owner]:
        """Whose pages a request takes: those of the newest; of one that rests, if nobody else will free any."""
        busy = [one for one in self.running if not one.rests]
        if busy[-1] is request and len(busy) == 1:
            return next((one for one in reversed(self.running) if one.rests), request)
        return busy[-1]

    def _preempt(self, request: Request[Owner]) -> None:
        """Take a request's pages; it is computed anew later, its answer so far included."""
        self._release(request)
        self.running.remove(request)
        request.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(request)

    def _admit(self) -> None:
        """Admit in order; only who waits for another's prompt, or for more of its own, lets others pass."""
        for request in list(islice((one for one in self.waiting if not one.sleeps), LOOK_AHEAD)):
            if request.waits_for in self._computing:
                continue
            # A preempted request with a token in flight blocks admission until that token is known.
            if request.in_flight:
                return
            while not self._slots or not self._try_admit(request):
                if not self._make_room():
                    return

    def _make_room(self) -> bool:
        """Where all that run rest, and so free nothing of themselves, preempt the newest; False where none is left."""
        if not self.running or not all(request.rests for request in self.running):
            return False
        self._preempt(self.running[-1])
        return True

    def _try_admit(self, request: Request[Owner]) -> bool:
        """Admit a request, unless it waits for what another one is computing; False if there is no room for it."""
        size = self.config.page_size
        keys = request.keys(size) if self.cache.keep else []
        keys = keys[: (request.context.length - 1) // size]  # At least one row must run, to draw from.
        blocks = self.cache.match(keys)
        request.waits_for = keys[len(blocks)] if len(blocks) < len(keys) else None
        if request.waits_for in self._computing:
            return True
        reserve = self.pages.groups * len(self.running)
        # Kept blocks may hold more pages than one request needs; when nobody else will free any, it does without.
        if not self.pages.admit(request, blocks, reserve) and (self.running or not self.pages.admit(request, [], 0)):
            return False
        if not request.preemptions:
            request.cached = request.computed
        for key in keys[request.committed :]:
            self._computing.setdefault(key, request)
        request.slot = self._slots.pop()
        self.waiting.remove(request)
        self.running.append(request)
        return True

    def _prefill(self, step: Step[Owner]) -> None:
        """Plan frames and rows of prompts, in the order of admission, within the step's budget."""
        prompts = [request for request in self.running if not request.decoding and not request.is_complete]
        # Where many requests still wait for their first token, holding back for those that have it helps nobody.
        beside = bool(step.decode) and (len(prompts) <= FEW or len(step.decode) >= MANY * len(prompts))
        budget = self.budget
        patches, tokens = budget.patches, budget.tokens
        if beside:
            patches, tokens = budget.mixed_patches, budget.mixed_tokens
        large = [request for request in prompts if self._is_large(request, request.encoded)]
        for request in prompts:
            if request in large:
                continue
            done = request.encoded
            if done < request.context.num_frames:
                done, patches = self._encode(request, step, patches)
                if beside and step.frames:
                    tokens = 0  # One of the two budgets a step, whichever comes first, so that both get their turn.
            last = request.context.length - (not request.may_draw)  # The last row draws a token.
            if done == request.context.num_frames and tokens and request.computed < last:
                stop = min(last, request.computed + tokens)
                tokens -= stop - request.computed
                step.prefill.append(RowSpan(request, request.computed, stop, draws=stop == request.context.length))
                if beside:
                    patches = 0
            if not tokens and patches <= 0:
                break
        alone = not step
        for request in sorted(large, key=lambda one: not one.partly):  # One at a time, as it takes memory.
            if self._encode_in_parts(request, step, alone):
                return

    def _is_large(self, request: Request[Owner], frame: int) -> bool:
        """A frame is to be encoded in parts, and after what takes less."""
        if frame == request.context.num_frames or request.digests[frame] in self.encoded:
            return False
        return self.budget.is_large(request.context.patches(frame))

    def _encode_in_parts(self, request: Request[Owner], step: Step[Owner], alone: bool) -> bool:
        """Plan the next part of a large frame: a step's work if it is alone, else less; False if it lacks pixels."""
        frame = request.encoded
        if not request.partly and frame not in request.pixels:
            step.missing.append((request, frame))
            return False
        share = self.budget.patches if alone else self.budget.mixed_patches
        until = min(1.0, request.partly + share / self.budget.work(request.context.patches(frame)))
        step.frames.append(FrameSpan(request, frame, frame + 1, until))
        return True

    def _encode(self, request: Request[Owner], step: Step[Owner], patches: int) -> tuple[int, int]:
        """Plan frames of a request → how many will then be encoded, and the patches that are left."""
        start = stop = request.encoded
        last = min(request.context.num_frames, start + request.vision_chunk)
        while stop < last:
            if self._is_large(request, stop):
                break
            kept = request.digests[stop] in self.encoded
            if not kept and stop not in request.pixels:
                step.missing.append((request, stop))
                break
            cost = 0 if kept else request.context.patches(stop)
            # One frame may exceed the budget if there is nothing else; it cannot be split.
            if cost > patches and (patches <= 0 or stop > start or step.frames):
                patches = 0
                break
            patches -= cost
            stop += 1
        if stop > start:
            step.frames.append(FrameSpan(request, start, stop))
        return stop, patches

    # --- carried out ---------------------------------------------------------------------------------------------

    def launched(self, step: Step[Owner]) -> None:
        """The step runs: take it as done. Its blocks are kept from now on; what reads them is launched later."""
        for part in step.frames:
            part.request.partly = part.until
            if part.until == 1:
                part.request.encoded, part.request.partly = part.stop, 0.0
        for rows in step.prefill:
            rows.request.computed = rows.stop
            if rows.draws:
                rows.request.in_flight += 1
                rows.request.decoding = True
        for request in step.decode:
            request.computed += 1
            request.in_flight += 1
        for request in step.requests:
            for key in self.pages.commit(request):
                if self._computing.get(key) is request:
                    del self._computing[key]

    def _release(self, request: Request[Owner]) -> None:
        self._computing = {key: one for key, one in self._computing.items() if one is not request}
        self._slots.append(request.slot)
        self.pages.release(request)
