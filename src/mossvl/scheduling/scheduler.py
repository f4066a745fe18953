"""The scheduler decides which frames, prefill rows and decode rows make up a step. No tensors here.

`plan` decides and allocates pages. The engine then launches the step and calls `record_launch`; after a failed launch,
the engine launches the step again, split by request. Waiting and running requests are in the order of their priority:
live ones first, then the lowest number; of equal priority, admission is FIFO, and prefill follows the order of
admission. Of live ones, prefill begins with who has waited longest.
"""

from bisect import insort_left, insort_right
from collections.abc import Container, Sequence
from itertools import islice
from typing import Generic

from mossvl.options.engine import EngineConfig
from mossvl.scheduling.allocator import Allocator, held_pages
from mossvl.scheduling.budget import StepBudget
from mossvl.scheduling.costs import Costs, Work
from mossvl.scheduling.pages import PageCache
from mossvl.scheduling.request import Owner, Request
from mossvl.scheduling.room import Room
from mossvl.scheduling.step import FrameSpan, RowSpan, Step

LIVE_STEPS = 3
"""Steps that live requests may take for themselves while prompts of others wait."""
LOOK_AHEAD = 256
"""Number of waiting requests that admission looks at, past those that wait for a prefix another request computes."""
LONG_SECONDS = 0.01
"""Time that prompts take in a step, from which on tokens are read before the step's rows are launched."""


class Scheduler(Generic[Owner]):
    """Owner of all scheduling state.

    Args:
        pages_per_block: pages that one block of text needs.
        vision_cache: digests of the frames in the vision cache, which need no pixels.
        budget: bounds of a step; by default, those of a GPU.
        costs: seconds that work takes, by which steps are kept within the budget's gap; the caller lets them learn.
        vision_page_size: vision tokens of a page; by default, as many as text tokens.
    """

    def __init__(
        self,
        config: EngineConfig,
        cache: PageCache,
        pages_per_block: int,
        vision_cache: Container[bytes] = (),
        budget: StepBudget | None = None,
        costs: Costs | None = None,
        vision_page_size: int | None = None,
    ) -> None:
        self.config = config
        self.cache = cache
        self.allocator: Allocator[Owner] = Allocator(
            cache, pages_per_block, config.page_size, vision_page_size or config.page_size
        )
        self.vision_cache = vision_cache
        self.budget = budget or StepBudget.of(config)
        self.costs = costs or Costs()
        self.waiting: list[Request[Owner]] = []
        self.running: list[Request[Owner]] = []
        self.preemptions = 0
        self._slots = list(range(config.max_batch - 1, -1, -1))
        self._computing: dict[bytes, Request[Owner]] = {}
        self._lost: list[Request[Owner]] = []
        self._since: dict[Request[Owner], None] = {}  # Live ones with prompts to compute, longest waiting first.
        self._passed = 0  # Steps in a row in which prompts of others waited.

    # --- requests come and go ------------------------------------------------------------------------------------

    def add(self, request: Request[Owner]) -> None:
        insort_right(self.waiting, request, key=priority_of)

    def remove(self, request: Request[Owner]) -> None:
        """Remove a request, waiting or running, that has ended."""
        if request.slot >= 0:
            self._release(request)
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        request.ended = True

    # --- deciding ------------------------------------------------------------------------------------------------

    def plan(self) -> Step[Owner]:
        step: Step[Owner] = Step()
        for request in self.running:
            self.allocator.free_left(request)
        self._decode(step)
        self._admit()
        step.decode = [request for request in step.decode if request.decoding]  # Some were preempted meanwhile.
        step.copies, self.allocator.copies = self.allocator.copies, []
        step.lost, self._lost = self._lost, []
        self._prefill(step)
        return step

    def _decode(self, step: Step[Owner]) -> None:
        """Grow the pages of running requests, and plan one row for each decoding one; preempt when pages run out."""
        for request in list(self.running):
            if request.slot < 0 or not (request.wants_token if request.decoding else not request.rests):
                continue
            if self._grow(request) and request.decoding:
                step.decode.append(request)

    def _grow(self, request: Request[Owner]) -> bool:
        """Allocate the pages that a request lacks; return False if the request itself was preempted."""
        while self.cache.available < self.allocator.lacking(request):
            victim = request if request.live and not self._can_fit(request) else self._victim(request)
            self._preempt(victim)
            if victim is request:
                return False
        self.allocator.grow(request)
        return True

    def _victim(self, request: Request[Owner]) -> Request[Owner]:
        """Choose whom to preempt for a request, which may be the request itself.

        Of those that are not live: the last busy one, newest of the highest number; if no other is busy, the last one
        that rests. Then live ones that have more than they reserved, those that rest first; but none of them for a live
        one that needs more than it reserved itself.
        """
        ordinary = self._ordinary()
        busy = [one for one in ordinary if not one.rests]
        if busy and busy != [request]:
            return busy[-1]
        excessive = [] if self._is_excessive(request) else [one for one in self.running if self._is_excessive(one)]
        for others in (ordinary, excessive):
            if resting := [one for one in others if one.rests]:
                return resting[-1]
        return excessive[-1] if excessive else request

    def _can_fit(self, request: Request[Owner]) -> bool:
        """Whether there is room for a request without all that may be preempted for it."""
        everyone = self._is_excessive(request)
        live = [one for one in self.running if one.live and one is not request]
        kept = [one for one in live if everyone or not self._is_excessive(one)]
        pages = sum(len(list(held_pages(one))) for one in kept) + self.allocator.needs(request)
        return len(kept) < self.config.max_batch and pages <= self.cache.num_pages

    def _ordinary(self) -> list[Request[Owner]]:
        return [one for one in self.running if not one.live]

    def _is_excessive(self, request: Request[Owner]) -> bool:
        """Whether a request is live and needs more pages than it has reserved."""
        return request.live and self.allocator.needs(request) > request.reserved

    def _preempt(self, request: Request[Owner]) -> None:
        """Release a request's pages, and queue it before its equals; prompt and answer so far will be recomputed.

        If frames have left, they cannot be: the request ends.
        """
        self._release(request)
        self.running.remove(request)
        request.preemptions += 1
        self.preemptions += 1
        if request.context.num_left:
            request.ended = True
            self._lost.append(request)
        else:
            insort_left(self.waiting, request, key=priority_of)

    def _admit(self) -> None:
        """Admit in order.

        Passed are those that sleep, those that wait for a prefix that another one computes, and live ones for which
        there is no room beyond their reservation.
        """
        made_room = False
        for request in list(islice((one for one in self.waiting if not one.sleeps), LOOK_AHEAD)):
            if request.waits_for in self._computing:
                continue
            if made_room and not request.live:  # It would pass those that were preempted.
                return
            # A preempted request with a token in flight blocks admission until that token is known.
            if request.in_flight:
                return
            while not self._slots or not self._admit_or_pass(request):
                if self._make_room(request):
                    made_room = request.live
                elif not self._is_excessive(request):
                    return
                else:
                    if request.preemptions:
                        self._lose(request)
                    break

    def _lose(self, request: Request[Owner]) -> None:
        """End a preempted request that is not computed anew: there is no room for it beyond its reservation."""
        self.waiting.remove(request)
        request.ended = True
        self._lost.append(request)

    def _make_room(self, request: Request[Owner]) -> bool:
        """Preempt one for a live request, or if all but live ones rest; return whether one was preempted.

        None is, if all together would not suffice; nor for a live one that was preempted since it had more than it
        reserved, as it and those that it took the place of would take turns for ever.
        """
        if not request.live and not all(one.rests for one in self._ordinary()):
            return False
        if (self._is_excessive(request) and request.preemptions) or not self._can_fit(request):
            return False
        victim = self._victim(request)
        if victim is request:
            return False
        self._preempt(victim)
        return True

    def _admit_or_pass(self, request: Request[Owner]) -> bool:
        """Admit a request, or pass it if it waits for a prefix that another one computes; False if pages run out."""
        size = self.config.page_size
        keys = request.keys(size) if self.cache.keep else []
        keys = keys[: (request.context.length - 1) // size]
        usable = keys[: request.reusable // size]
        blocks = self.cache.match(usable)
        request.waits_for = usable[len(blocks)] if len(blocks) < len(usable) else None
        if request.waits_for in self._computing:
            return True
        reserve = 0 if request.live else self.allocator.pages_per_block * len(self.running)
        # Pinning cached blocks may take more pages than recomputing; if no other request will free any, recompute.
        admit = self.allocator.admit
        if not admit(request, blocks, reserve) and (self._ordinary() or not admit(request, [], 0)):
            return False
        if not request.preemptions:
            request.cached = request.computed
        for key in keys[request.committed :]:
            self._computing.setdefault(key, request)
        request.slot = self._slots.pop()
        self.waiting.remove(request)
        insort_right(self.running, request, key=priority_of)
        return True

    def _prefill(self, step: Step[Owner]) -> None:
        """Plan frames and rows of prompts, in the order of their turns, within the step's budget."""
        prompts = self._turns()
        large = [request for request in prompts if self._is_large(request, request.encoded)]
        beside = bool(step.decode) or any(request.live for request in self.running)
        room = Room(self.budget, self.costs, self._decoding(step), beside, large=bool(large))
        for request in prompts:
            if request in large:
                continue
            done = request.encoded
            if done < request.context.num_frames:
                done = self._encode(request, step, room)
            if done == request.context.num_frames and room.has_tokens:
                self._compute(request, step, room)
            if room.is_used_up:
                break
        alone = not step and not beside
        for request in sorted(large, key=lambda one: not one.partly):  # One at a time, as it takes memory.
            if self._encode_in_parts(request, step, room, alone):
                break
        missing = [request for request, _ in step.missing]
        oldest = next((request for request in prompts if not request.live and request not in missing), None)
        self._passed = 0 if oldest is None or oldest in step.prompted else self._passed + 1
        step.work = room.work._replace(steps=float(bool(step.computed)))
        if beside:
            step.spare = self.budget.gap - self.costs.of(step.work)

    def _turns(self) -> list[Request[Owner]]:
        """Requests with prompts to compute: live ones first, unless others have waited for long."""
        prompts = [request for request in self.running if not request.decoding and not request.is_complete]
        live = {request: None for request in prompts if request.live}
        self._since = {request: None for request in self._since if request in live} | live
        others = [request for request in prompts if not request.live]
        return others + list(self._since) if self._passed >= LIVE_STEPS else list(self._since) + others

    def _decoding(self, step: Step[Owner]) -> Work:
        """The work of a step's decoding requests."""
        groups, size = self.allocator.pages_per_block, self.config.page_size
        pages = sum(len(request.vision_pages) + groups * len(request.text_pages) for request in step.decode)
        return Work(float(bool(step.decode)), len(step.decode), pages * size)

    def _compute(self, request: Request[Owner], step: Step[Owner], room: Room) -> None:
        """Plan rows of a request whose frames are encoded."""
        context, start = request.context, request.computed
        last = min(context.length - (not request.may_draw), start + self.budget.tokens)  # The last row draws a token.
        if start >= last:
            return
        last = context.same_until(start, last)
        seen = int(context.visible(last - 1, last)[0]) - context.unseen(start) + self.allocator.pages_per_block * last
        if rows := room.take_rows(last - start, seen):
            stop = start + rows
            step.prefill.append(RowSpan(request, start, stop, draws=stop == context.length))

    def _is_large(self, request: Request[Owner], frame: int) -> bool:
        """Whether a frame is encoded in parts, after smaller work."""
        if frame == request.context.num_frames or request.digests[frame] in self.vision_cache:
            return False
        return bool(request.partly) or self.budget.is_large(request.context.patches(frame))

    def _encode_in_parts(self, request: Request[Owner], step: Step[Owner], room: Room, alone: bool) -> bool:
        """Plan the next part of a large frame: a full step's work if alone, else less; False without pixels."""
        frame = request.encoded
        if not request.partly and frame not in request.pixels:
            step.missing.append((request, frame))
            return False
        until = room.take_part(request.context.patches(frame), request.partly, alone)
        step.frames.append(FrameSpan(request, frame, frame + 1, until))
        return True

    def _encode(self, request: Request[Owner], step: Step[Owner], room: Room) -> int:
        """Plan frames of a request; return the number of frames encoded after the step."""
        start = stop = request.encoded
        last = min(request.context.num_frames, start + request.vision_chunk)
        while stop < last:
            if self._is_large(request, stop):
                break
            kept = request.digests[stop] in self.vision_cache
            if not kept and stop not in request.pixels:
                step.missing.append((request, stop))
                break
            if not kept and not room.take_frame(request.context.patches(stop)):
                room.close_frames()
                break
            stop += 1
        if stop > start:
            step.frames.append(FrameSpan(request, start, stop))
        return stop

    def launches(self, step: Step[Owner]) -> Sequence[Step[Owner]]:
        """What to launch for a step: its frames, then its rows, if some decode and it does much else; else the step.

        Launching many kernels may wait for the GPU, as when a library loads one of them, or the GPU takes no more
        launches. What was drawn before would be read only after much of the step. So it is read before the rows are
        launched, while the GPU encodes the frames.
        """
        prompts = self.costs.of(step.work._replace(steps=0.0, decode_rows=0.0, read=0.0))
        return step.cut() if step.decode and prompts >= LONG_SECONDS else [step]

    # --- carried out ---------------------------------------------------------------------------------------------

    def record_launch(self, step: Step[Owner]) -> None:
        """Record a launched step as done. Later steps run after it, so its blocks may be reused at once."""
        for part in step.frames:
            part.request.partly = part.until
            if part.until == 1:
                part.request.encoded, part.request.partly = part.stop, 0.0
        for rows in step.prefill:
            rows.request.computed = rows.stop
            rows.request.mark_scored(rows.stop)
            if rows.draws:
                rows.request.in_flight += 1
                rows.request.decoding = True
                self._since.pop(rows.request, None)
        for request in step.decode:
            request.computed += 1
            request.in_flight += 1
        for request in step.requests:
            for key in self.allocator.commit(request):
                if self._computing.get(key) is request:
                    del self._computing[key]

    def _release(self, request: Request[Owner]) -> None:
        self._computing = {key: one for key, one in self._computing.items() if one is not request}
        self._since.pop(request, None)
        self._slots.append(request.slot)
        self.allocator.release(request)


def priority_of(request: Request[object]) -> tuple[bool, int]:
    return not request.live, request.params.priority
