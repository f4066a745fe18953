"""Random courses of events for a scheduler."""

from dataclasses import dataclass
from random import Random

from mossvl.scheduling.step import Step

from .asked import PICTURES, Asked, Item, prompt_of
from .machine import Machine


@dataclass(frozen=True)
class Setting:
    """What kind of events a trace has, and how often."""

    seed: int
    page_size: int
    pages: int
    groups: int
    max_batch: int
    chunk: int
    mixed: int
    requests: int
    overlap: bool
    keep: bool
    cancelled: float
    failing: float
    late: float
    formed: float
    growing: float = 0.0
    ranked: float = 0.0
    salted: float = 0.0
    vision_size: int = 0
    apart: bool = False

    def machine(self) -> Machine:
        return Machine(
            self.pages,
            self.groups,
            self.keep,
            self.overlap,
            self.apart,
            vision_size=self.vision_size,
            page_size=self.page_size,
            max_batch=self.max_batch,
            prefill_tokens=self.chunk,
            mixed_prefill_tokens=self.mixed,
            vision_patches=4 * self.chunk,
            mixed_vision_patches=4 * self.mixed,
        )


class Trace:
    """Requests that come, share, load, are cancelled and fail, at random, until all have ended."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.rng = setting, Random(setting.seed)
        self.machine = setting.machine()
        self.pace = self.rng.choice((0.05, 0.3, 1))
        self.sharing = self.rng.choice((0.2, 0.7))
        self.longest = self.rng.choice((2, 10, 40))
        self.asked: list[Asked] = []
        self.loading: dict[int, tuple[int, int]] = {}
        self.cancelled: set[int] = set()
        self.steps = self.waited = 0

    def run(self) -> None:
        machine, rng = self.machine, self.rng
        left = self.setting.requests
        while left or self.more or not machine.idle:
            while left and (machine.idle or rng.random() < self.pace):
                left -= 1
                self._ask()
            self._load()
            self._cancel()
            if machine.idle:
                continue
            waiting = self._find_masks() | self._extend()
            self.waited += waiting
            busy = machine.pending or self.loading or waiting
            step = machine.step(fails=rng.random() < self.setting.failing)
            self.steps += 1
            assert busy or step or step.missing, "stuck"
            assert self.steps <= self._bound(), "too many steps"
            for request, frame in step.missing:
                self.loading.setdefault(request.number, (self.steps + rng.randrange(3), frame))
            self._encodings(step)
        self._check_end()

    @property
    def more(self) -> bool:
        """Whether more than requests is still to come."""
        return False

    def _bound(self) -> int:
        # The oldest makes progress in every step, however often all others have to begin anew.
        # Where lower numbers come, or some of them rest, these may begin anew as often as others, or they, grow.
        turns = 1 + sum(one.turns for one in self.asked if one.turns > 1 or one.priority)
        return self.waited + turns * sum(2 * one.work + 9 * len(one.pictures) + 9 for one in self.asked)

    def _ask(self) -> None:
        rng, size = self.rng, self.setting.page_size
        items: list[Item] = []
        if self.asked and rng.random() < self.sharing:
            other = rng.choice(self.asked)
            whole = [other.token(row) for row in range(other.request.context.length)]
            items = whole[: rng.choice((len(whole), len(other.items), rng.randrange(len(whole) + 1)))]
        shared = len(items)
        if not items or rng.random() < 0.8:
            items = items + self._new_items(rng.randrange(1, rng.choice((4, 2 * size + 4))))
        if rng.random() < 0.1:
            twins = {b"a": b"b", b"b": b"a", b"d": b"e", b"e": b"d"}
            items = [twins.get(item, item) if isinstance(item, bytes) else item for item in items]
        parts = self._in_parts(items, shared) if rng.random() < self.setting.growing else [items]
        whole = [item for part in parts for item in part]
        most = (self.machine.scheduler.allocator.capacity(prompt_of(whole).end.vision) - len(whole)) // len(parts)
        if most < 1:
            return
        room = min(most, rng.choice((1, self.longest, rng.randrange(1, self.longest + 1))))
        late = rng.random() < self.setting.late
        asked = Asked(
            parts[0],
            room,
            rng.choice((room, rng.randrange(room + 1))),
            loaded=not late,
            known=not late or rng.random() < 0.5,
            formed=rng.random() < self.setting.formed,
            later=parts[1:],
            priority=rng.randrange(-1, 3) if rng.random() < self.setting.ranked else 0,
            salt=rng.choice("ab") if rng.random() < self.setting.salted else None,
        )
        if asked.later and rng.random() < 0.5:
            asked.request.park()
        asked.request.vision_chunk = rng.choice((1, 2, 64))
        self.asked.append(asked)
        self.machine.ask(asked)

    def _in_parts(self, items: list[Item], shared: int) -> list[list[Item]]:
        """A prompt in parts, of which others have asked the first `shared` items, and more to be asked after it."""
        rng = self.rng
        cut = rng.choice((shared, rng.randrange(len(items)), len(items)))
        parts = [part for part in (items[:cut], items[cut:]) if part]
        size = 2 * self.setting.page_size + 4
        return parts + [self._new_items(rng.randrange(1, size)) for _ in range(rng.randrange(1, 4))]

    def _new_items(self, count: int) -> list[Item]:
        share = self.rng.choice((0, 0.1, 0.5))
        return [
            self.rng.choice(list(PICTURES)) if self.rng.random() < share else self.rng.randrange(2)
            for _ in range(count)
        ]

    def _load(self) -> None:
        for number, (due, frame) in list(self.loading.items()):
            if due <= self.steps:
                del self.loading[number]
                one = self.machine.asked[number]
                frames = len(one.pictures)
                one.load(frame, self.rng.choice((frames, self.rng.randrange(frame, frames) + 1)))

    def _find_masks(self) -> bool:
        """Some become known → whether any was not."""
        formed = [one.request for one in self.asked if one.formed and not one.request.ended]
        unknown = [request.matcher for request in formed if not request.matcher.mask]
        for matcher in unknown:
            if self.rng.random() < 0.4:
                matcher.mask = b"known"
        return bool(unknown)

    def _extend(self) -> bool:
        """Some are asked more: before they have drawn anything, while they do, or after → whether any is to be."""
        rng, growing = self.rng, [one for one in self.asked if one.later and not one.request.ended]
        for one in growing:
            request = one.request
            if rng.random() < 0.7:
                continue
            if request.in_flight:
                rng.choice((request.hold, request.park))()
                continue
            one.extend(rng.randrange(1, one.room + 1))
            if rng.random() < 0.7 or not one.later:
                request.resume()
        return bool(growing)

    def _cancel(self) -> None:
        for one in self.asked:
            if not one.request.ended and self.rng.random() < self.setting.cancelled:
                self.cancelled.add(one.request.number)
                self.machine.scheduler.remove(one.request)
                self.machine.account()

    def _encodings(self, step: Step) -> None:
        """Encoded frames are kept for a while."""
        for part in step.frames:
            if self.rng.random() < 0.3:
                self.machine.encoded.update(part.request.digests[part.start : part.stop])
        self.machine.encoded.discard(None)
        if self.rng.random() < 0.1:
            self.machine.encoded.clear()

    def _check_end(self) -> None:
        cache, scheduler = self.machine.cache, self.machine.scheduler
        failed = {request.number for step in self.machine.steps for request in step.requests}
        for one in self.asked:
            request = one.request
            if one.turns > 1:
                self._check_parts(one)
            assert request.ended and request.in_flight == 0
            if request.number not in self.cancelled and not self.setting.failing:
                assert one.finished and not one.later
                assert one.turns > 1 or request.num_answer == min(one.stop, one.room)
            assert one.finished or request.number in self.cancelled | failed
        assert not scheduler._computing and not scheduler.allocator.copies
        assert self.setting.keep or not cache.blocks
        cache.clear()
        assert cache.num_free == cache.available == cache.num_pages and not cache.blocks and not cache.idle

    def _check_parts(self, one: Asked) -> None:
        """What was asked in parts has the rows and the keys of one prompt of everything."""
        context, digests = one.request.context, one.request.digests
        whole = Asked([one.token(row) for row in range(context.length)], salt=one.salt).request
        assert (context.positions(0, context.length) == whole.context.positions(0, context.length)).all()
        assert (context.visible(0, context.length) == whole.context.visible(0, context.length)).all()
        assert None in digests or one.request.keys(self.setting.page_size) == whole.keys(self.setting.page_size)
