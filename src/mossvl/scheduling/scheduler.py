"""What runs next: decides which frames, prompt tokens and answer tokens make up a step. No tensors here.

`plan` decides and allocates pages; the engine carries the step out and then calls `launched`, or, if that failed, tries
what is planned for each request apart. Requests are admitted in the order in which they came, and computed in the order
in which they were admitted.
"""

from collections import deque
from collections.abc import Container, Iterator
from itertools import islice
from typing import Generic

from mossvl.options.engine import EngineConfig
from mossvl.scheduling.budget import StepBudget
from mossvl.scheduling.pages import Block, PageCache, shared_vision
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
        self.groups = groups
        self.encoded = encoded
        self.budget = budget or StepBudget.of(config)
        self.waiting: deque[Request[Owner]] = deque()
        self.running: list[Request[Owner]] = []
        self.preemptions = 0
        self._slots = list(range(config.max_batch - 1, -1, -1))
        self._computing: dict[bytes, Request[Owner]] = {}
        self._copies: list[tuple[Request[Owner], int, int]] = []

    # --- requests come and go ------------------------------------------------------------------------------------

    def capacity(self, num_vision: int) -> int:
        """Most tokens, prompt and answer, of a request with so many vision tokens that has all pages for itself."""
        spare = self.cache.num_pages - self._pages_for(num_vision)
        return max(0, spare // self.groups * self.config.page_size)

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
        step.copies, self._copies = self._copies, []
        self._prefill(step)
        return step

    def _decode(self, step: Step[Owner]) -> None:
        """One row for every request that generates; the newest are preempted when pages run out."""
        for request in list(self.running):
            if not request.wants_token:
                continue
            if request.computed // self.config.page_size < len(request.text_pages) or self._grow(request):
                step.decode.append(request)

    def _grow(self, request: Request[Owner]) -> bool:
        """Another block for a request; False if it had to be preempted itself."""
        while self.cache.available < self.groups:
            newest = self.running[-1]
            self._preempt(newest)
            if newest is request:
                return False
        request.text_pages.append(tuple(self.cache.allocate(self.groups)))
        return True

    def _preempt(self, request: Request[Owner]) -> None:
        """Take a request's pages; it is computed anew later, its answer so far included."""
        self._release(request)
        self.running.remove(request)
        request.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(request)

    def _admit(self) -> None:
        """Admit in order; only who waits for another's prompt lets others pass."""
        for request in list(islice(self.waiting, LOOK_AHEAD)):
            if request.waits_for in self._computing:
                continue
            # A preempted request with a token in flight blocks admission until that token is known.
            if request.in_flight or not self._slots or not self._try_admit(request):
                return

    def _try_admit(self, request: Request[Owner]) -> bool:
        """Admit a request, unless it waits for what another one is computing; False if there is no room for it."""
        size = self.config.page_size
        keys = request.keys(size) if self.cache.keep else []
        keys = keys[: (request.context.length - 1) // size]  # At least one row must run, to draw from.
        blocks = self.cache.match(keys)
        request.waits_for = keys[len(blocks)] if len(blocks) < len(keys) else None
        if request.waits_for in self._computing:
            return True
        # Kept blocks may hold more pages than one request needs; when nobody else will free any, it does without.
        if not self._admit_with(request, blocks) and (self.running or not self._admit_with(request, [])):
            return False
        if not request.preemptions:
            request.cached = request.computed
        for key in keys[request.committed :]:
            self._computing.setdefault(key, request)
        self.waiting.remove(request)
        self.running.append(request)
        return True

    def _admit_with(self, request: Request[Owner], blocks: list[Block]) -> bool:
        """Give a request these blocks and the other pages it needs; False if there are not enough."""
        size, context = self.config.page_size, request.context
        frames = context.frames_between(0, len(blocks) * size)[1]
        shared = shared_vision(blocks)
        # A page that is shared in part is copied, because frames of this request's own follow in it.
        cut = frames < context.num_frames and context.vision_range(0, frames)[1] % size > 0
        source = shared.pop() if cut else None
        vision = self._pages_for(context.num_vision) - len(shared)
        fresh = vision + self.groups * (self._pages_for(request.context.length) - len(blocks))
        idle = {page for block in blocks for page in block.pages if not self.cache.pinned(page)}
        if fresh + len(idle) + self.groups * len(self.running) > self.cache.available:
            return False
        for block in blocks:
            self.cache.use(block)
        request.text_pages = [block.text for block in blocks]
        request.vision_pages = shared
        for page in held_pages(request):
            self.cache.pin(page)
        pages = self.cache.allocate(fresh)
        if source is not None:
            self._copies.append((request, source, pages[0]))
        request.vision_pages += pages[:vision]
        request.text_pages += [tuple(pages[i : i + self.groups]) for i in range(vision, fresh, self.groups)]
        request.blocks, request.committed = blocks, len(blocks)
        request.computed, request.encoded = len(blocks) * size, frames
        request.slot = self._slots.pop()
        return True

    def _prefill(self, step: Step[Owner]) -> None:
        """Plan frames and rows of prompts, in the order of admission, within the step's budget."""
        prompts = [request for request in self.running if not request.decoding and not request.waits_for_form]
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
            self._commit(request)

    def _commit(self, request: Request[Owner]) -> None:
        """Offer blocks that are complete to be kept."""
        size = self.config.page_size
        keys = request.keys(size) if self.cache.keep else []
        for number in range(request.committed, min(len(keys), request.computed // size)):
            frames = request.context.frames_between(number * size, (number + 1) * size)
            start, stop = request.context.vision_range(*frames)
            indices = range(start // size, self._pages_for(stop)) if stop > start else range(0)
            vision = tuple((index, request.vision_pages[index]) for index in indices)
            block = self.cache.add(keys[number], request.text_pages[number], vision)
            if block is not None:
                request.blocks.append(block)
            if self._computing.get(keys[number]) is request:
                del self._computing[keys[number]]
            request.committed = number + 1

    # --- pages ---------------------------------------------------------------------------------------------------

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self.config.page_size)

    def _release(self, request: Request[Owner]) -> None:
        self._computing = {key: one for key, one in self._computing.items() if one is not request}
        self.cache.release(held_pages(request), request.blocks)
        self._slots.append(request.slot)
        request.forget_progress()


def held_pages(request: Request[object]) -> Iterator[int]:
    """Every page that a request has pinned."""
    for pages in request.text_pages:
        yield from pages
    yield from request.vision_pages
