"""A machine that carries steps out with tags in place of keys and values.

A tag says what a real key or value would have been computed from: all tokens and pictures up to it. So a row that
would read anything but what its own history wrote is seen at once, whoever wrote it and whenever.
"""

from collections.abc import Container, Iterable, Sequence

from mossvl.options.engine import EngineConfig
from mossvl.scheduling.allocator import held_pages
from mossvl.scheduling.pages import PageCache
from mossvl.scheduling.request import Request
from mossvl.scheduling.scheduler import LIVE_STEPS, Scheduler, priority_of
from mossvl.scheduling.step import RowSpan, Step

from .asked import Asked


class Machine:
    """A scheduler, and pages of tags; checks everything that must hold between a step and the next.

    Args:
        overlap: the next step is planned before what the last one drew is known.
        apart: frames and rows of a step are carried out one after the other.
        options: of the engine; and `vision_size`, vision tokens of a page; 0 for as many as text tokens.
    """

    def __init__(
        self, pages: int, groups: int = 1, keep: bool = True, overlap: bool = False, apart: bool = False, **options: int
    ) -> None:
        vision_size = options.pop("vision_size", 0)
        self.config = EngineConfig(**{"page_size": 4, **options})
        self.size = self.config.page_size
        self.vision_size = vision_size or self.size
        self.cache = PageCache(pages, keep)
        self.encoded: set[bytes | None] = set()
        self.scheduler = Scheduler(self.config, self.cache, groups, self.encoded, vision_page_size=self.vision_size)
        self.contents: list[list[object]] = [[None] * max(self.size, self.vision_size) for _ in range(pages)]
        self.asked: dict[int, Asked] = {}
        self.overlap, self.apart = overlap, apart
        self.pending: list[tuple[Request, int]] = []
        self.others_waited = 0
        self.steps: list[Step] = []
        self._origins: dict[bytes, tuple[Asked, int]] = {}

    # --- what an engine does -------------------------------------------------------------------------------------

    def ask(self, *asked: Asked) -> None:
        for one in asked:
            self.asked[one.request.number] = one
            self.scheduler.add(one.request)

    def step(self, fails: bool = False) -> Step:
        step = self.decide()
        for number, part in enumerate(step.cut() if self.apart else [step]):
            drawn = self.launch(part.still_possible() if number else part, fails)
            self.account()
            if self.overlap:
                drawn, self.pending = self.pending, drawn
            self.accept(drawn)
            self.account()
        return step

    def run(self, steps: int = 1000) -> int:
        """Until nothing is left to do → how many steps it took."""
        for number in range(steps):
            if self.idle:
                return number
            step = self.step()
            for request, frame in step.missing:
                self.asked[request.number].load(frame, request.context.num_frames)
        raise AssertionError(f"still not done after {steps} steps")

    @property
    def empty(self) -> bool:
        """No request waits or runs; tokens of requests that have ended may be in flight."""
        return not self.scheduler.running and not self.scheduler.waiting

    @property
    def idle(self) -> bool:
        return self.empty and not self.pending

    def decide(self) -> Step:
        queue, running = list(self.scheduler.waiting), list(self.scheduler.running)
        busy = [request for request in running if not request.rests]
        preempted = {request: request.preemptions for request in running}
        safe = [one for one in running if one.live and not self._is_excessive(one)]
        step = self.scheduler.plan()
        lost = [request for request in running if request.preemptions > preempted[request]]
        assert not any(request in safe for request in lost), "a session within its reservation is never preempted"
        waited = [request for request in step.lost if request in queue]
        assert all(one.live and one.preemptions and self._is_excessive(one) for one in waited)
        assert [one for one in step.lost if one not in waited] == [request for request in lost if request.ended]
        self._check_order(queue, running, busy, lost)
        self._check_budgets(step)
        self._check_progress(step)
        self.account()
        self.steps.append(step)
        return step

    def launch(self, step: Step, fails: bool = False) -> list[tuple[Request, int]]:
        """Carry a step out → requests that draw, and from which row."""
        rows = [*step.prefill, *(RowSpan(one, one.computed, one.computed + 1, True) for one in step.decode)]
        for request, source, target in step.copies:
            assert target in request.vision_pages
            self.contents[target] = list(self.contents[source])
        for part in step.frames:
            assert part.request.partly < part.until
            if part.until == 1:
                self._write_vision(part.request, part.start, part.stop, fails)
        for part in rows:
            self._write_text(part, fails)
        if fails:
            for request in step.requests:
                self.scheduler.remove(request)
            return []
        for part in rows:
            assert part.request.may_draw or not part.draws
            self._check_reads(part)
        for part in step.frames:
            for frame in range(part.start, part.stop) if part.until == 1 else ():
                part.request.pixels.pop(frame, None)
        self.scheduler.record_launch(step)
        return [(part.request, part.stop - 1) for part in rows if part.draws]

    def accept(self, drawn: Iterable[tuple[Request, int]]) -> None:
        for request, row in drawn:
            wanted = request.count_arrival()
            if request.matcher is not None:
                request.matcher.mask = b""
            if not wanted:
                continue
            asked = self.asked[request.number]
            assert row + 1 == request.context.length, "tokens are drawn in order, each once"
            stops = request.num_answer == asked.stop and not asked.later
            if not stops:
                request.context.answer.append(asked.token(row + 1))
            if (asked.later or asked.live) and request.num_answer == request.max_answer:
                request.park()
            elif stops or request.num_answer == request.max_answer:
                asked.finished = True
                self.scheduler.remove(request)

    # --- pages of tags -------------------------------------------------------------------------------------------

    def _write_vision(self, request: Request, start: int, stop: int, fails: bool) -> None:
        assert request.encoded == start < stop <= request.context.num_frames
        tags = self.asked[request.number].vision_tags(start, stop)
        for token, tag in zip(range(*request.context.vision_range(start, stop)), tags, strict=True):
            page = request.vision_pages[token // self.vision_size - request.freed]
            self.contents[page][token % self.vision_size] = None if fails else tag

    def _write_text(self, rows: RowSpan, fails: bool) -> None:
        request = rows.request
        assert request.computed == rows.start < rows.stop <= request.context.length + request.in_flight
        own = {page for pages in request.text_pages[rows.start // self.size :] for page in pages}
        assert not any(own.intersection(held_pages(one)) for one in self.scheduler.running if one is not request)
        for row in range(rows.start, rows.stop):
            for group, page in enumerate(request.text_pages[row // self.size]):
                tag = (self.asked[request.number].history(row), group)
                self.contents[page][row % self.size] = None if fails else tag

    def _check_reads(self, rows: RowSpan) -> None:
        """Every row finds its own history: the text before it, and all that it sees."""
        request, asked = rows.request, self.asked[rows.request.number]
        for group in range(self.scheduler.allocator.pages_per_block):
            pages = [pages[group] for pages in request.text_pages]
            assert self._read(pages, rows.stop, self.size) == asked.text_tags(0, rows.stop, group)
        frames = request.context.frames_between(0, rows.stop)[1]
        visible = int(request.context.visible(rows.stop - 1, rows.stop)[0])
        unseen, freed = request.context.unseen(rows.start), request.freed * self.vision_size
        assert unseen == request.context.unseen(rows.stop - 1), "rows of a step see the same first frame"
        found = self._read(request.vision_pages, visible - freed, self.vision_size)[unseen - freed :]
        assert found == asked.vision_tags(0, frames)[unseen:]

    def _read(self, pages: Sequence[int], stop: int, size: int) -> list[object]:
        found = [tag for page in pages[: -(-stop // size)] for tag in self.contents[page][:size]]
        assert len(found) >= stop
        return found[:stop]

    # --- what must hold ------------------------------------------------------------------------------------------

    def account(self) -> None:
        """Count everything from scratch."""
        cache, scheduler = self.cache, self.scheduler
        held = {page for request in scheduler.running for page in held_pages(request)}
        users = [block for request in scheduler.running for block in request.blocks]
        used = {page for block in users for page in block.pages}
        owned = {page for block in cache.blocks.values() for page in block.pages}
        assert used <= owned
        assert cache.num_free == cache.num_pages - len(held | owned)
        assert cache.available == cache.num_pages - len(held | used)
        assert {page for page in range(cache.num_pages) if cache.pinned(page)} == held | used
        for key, block in cache.blocks.items():
            assert block.key == key
            assert block.users == users.count(block)
            assert (key in cache.idle) == (block.users == 0)
        assert len(cache.idle) == sum(block.users == 0 for block in cache.blocks.values())
        assert sorted(request.slot for request in scheduler.running) == sorted(
            set(range(self.config.max_batch)) - set(scheduler._slots)
        )
        for request in scheduler.waiting:
            assert request.slot == -1 and not request.ended
            assert not (request.text_pages or request.vision_pages or request.blocks)
        for request in scheduler.running:
            assert len(request.vision_pages) <= -(-request.context.num_vision // self.vision_size)
            assert {len(pages) for pages in request.text_pages} == {scheduler.allocator.pages_per_block}
        assert scheduler.preemptions == sum(one.request.preemptions for one in self.asked.values())
        for key, request in scheduler._computing.items():
            assert request in scheduler.running and not request.decoding
            assert request.keys(self.size).index(key) >= request.committed
        self._check_blocks()

    def _check_blocks(self) -> None:
        """Kept blocks hold what their keys stand for, and equal keys stand for equal histories."""
        for request in self.scheduler.running:
            asked = self.asked[request.number]
            for number, key in enumerate(request.keys(self.size)):
                origin, place = self._origins.setdefault(key, (asked, number))
                end = (number + 1) * self.size - 1
                assert place == number and origin.history(end) == asked.history(end)
        for key, block in self.cache.blocks.items():
            asked, number = self._origins[key]
            start, stop = number * self.size, (number + 1) * self.size
            for group, page in enumerate(block.text):
                assert self.contents[page][: self.size] == asked.text_tags(start, stop, group)
            context = asked.request.context
            frames = context.frames_between(start, stop)
            pages = dict(block.vision)
            tokens = range(*context.vision_range(*frames))
            assert list(pages) == sorted({token // self.vision_size for token in tokens})
            found = [self.contents[pages[token // self.vision_size]][token % self.vision_size] for token in tokens]
            assert found == asked.vision_tags(*frames)

    def _check_order(
        self, queue: list[Request], running: list[Request], busy: list[Request], lost: list[Request]
    ) -> None:
        """Only the newest of the highest numbers are preempted, and those that rest only for the last that does not;
        who waits is passed only by lower numbers, while another computes what it needs, while there is nothing to do
        for it, or beyond its reservation. Sessions are preempted after all others but the last that does not rest, and
        only for what they have beyond their reservation."""
        kept = [request for request in running if request not in lost]
        still = [request for request in busy if request not in lost]
        admitted = [request for request in self.scheduler.running if request not in kept]
        assert self.scheduler.running == sorted((*kept, *admitted), key=priority_of)
        others, still = ([one for one in some if not one.live] for some in (busy, still))
        assert others[: len(still)] == still
        assert all(request in busy for request in lost) or len(still) <= 1
        if any(request.live for request in lost):
            left = [request for request in kept if not request.live]
            assert len(left) <= 1 and left == still, "sessions are preempted after all others but one"
        queue = [one for one in (*lost, *queue) if not one.ended and (not one.sleeps or one.slot >= 0)]
        queue.sort(key=priority_of)
        assert [request for request in queue if request.slot >= 0] == admitted
        waiting = [request for request in self.scheduler.waiting if not request.sleeps]
        assert [request for request in queue if request.slot < 0] == waiting
        for request in queue[: queue.index(admitted[-1])] if admitted else ():
            passed = request.waits_for in self.scheduler._computing or (request.live and self._is_excessive(request))
            assert request.slot >= 0 or passed, "passed without a reason"

    def _is_excessive(self, request: Request) -> bool:
        return self.scheduler.allocator.needs(request) > request.reserved

    def _check_budgets(self, step: Step) -> None:
        budget = self.scheduler.budget
        tokens, most = budget.tokens, budget.patches
        beside = bool(step.decode) or any(request.live for request in self.scheduler.running)
        if beside:
            tokens, most = budget.mixed_tokens or tokens, budget.mixed_patches or most
        rows = sum(part.stop - part.start for part in step.prefill)
        patches = {
            (part, frame): part.request.context.patches(frame)
            for part in step.frames
            for frame in range(part.start, part.stop)
            if part.request.digests[frame] not in self.encoded
        }
        large = [part for part, frame in patches if budget.is_large(patches[part, frame])]
        costs = [cost for (part, _), cost in patches.items() if part not in large]
        assert rows <= tokens
        if len(costs) > 1:
            assert sum(costs) <= most
        assert len(large) <= 1 and all(part == step.frames[-1] and part.stop == part.start + 1 for part in large)
        for part in large:
            alone = not (beside or step.prefill or step.copies or costs or step.frames[:-1])
            share = (part.until - part.request.partly) * budget.work(part.request.context.patches(part.start))
            assert share <= (budget.patches if alone else budget.mixed_patches or budget.patches) + 1e-6
        assert all(part.stop - part.start <= part.request.vision_chunk for part in step.frames)

    def _check_progress(self, step: Step) -> None:
        """All who generate go on, and so does the oldest prompt that has its pixels, of sessions or else of others."""
        running = self.scheduler.running
        assert step.decode == [request for request in running if request.wants_token]
        live = [request for request in running if request.live]
        self.others_waited = self.others_waited + 1 if self._is_stuck(step, running, self.scheduler._since) else 0
        assert not live or self.others_waited <= LIVE_STEPS + 1, "sessions leave no step to others"
        first = [one for one in (*self.scheduler._since, *running) if one in running]
        stuck = self._is_stuck(step, first)
        assert not stuck or (live and not self._is_stuck(step, [one for one in running if not one.live]))

    def _is_stuck(self, step: Step, requests: Iterable[Request], besides: Container[Request] = ()) -> bool:
        """Whether prompts of these wait though the first of them could be computed."""
        planned = {part.request.number for part in (*step.frames, *step.prefill)}
        for request in requests:
            if request in besides:
                continue
            if not request.decoding and request.number in planned:
                return False
            waits = request.is_complete
            held = request.freed + len(request.vision_pages)
            assert waits or held == -(-request.context.num_vision // self.vision_size)
            if request.encoded < request.context.num_frames and any(part.request.partly for part in step.frames):
                large = self.scheduler.budget.is_large(request.context.patches(request.encoded))
                waits = waits or large  # For the large frame that is begun.
            if not (request.decoding or waits or any(request is one for one, _ in step.missing)):
                return True
        return False
