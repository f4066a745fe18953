"""Random courses of live sessions beside other requests."""

from dataclasses import dataclass, replace

from mossvl.errors import SessionLimitError
from mossvl.scheduling.reservations import Reservations

from .asked import PICTURES, Asked, Item
from .traces import Setting, Trace


@dataclass(frozen=True)
class Sessions:
    """What kind of sessions a trace has.

    Attributes:
        count: how many are begun.
        frames: how many each is given.
        window: frames that each sees.
        rows: text tokens after which each rolls over.
        modest: share of those that reserve all that they may come to hold.
        killed: how often one is killed at a step.
    """

    count: int
    frames: int
    window: int
    rows: int
    modest: float
    killed: float


class Watching:
    """A session: frames come and leave, it speaks, falls silent, rolls over, and ends."""

    def __init__(self, trace: "LiveTrace", modest: bool) -> None:
        self.trace, self.left, self.asked = trace, trace.sessions.frames, None
        self.modest = modest
        self.reserved = trace.reservations.reserve(trace.most_pages if modest else 1)
        self.ended = False
        self.rolled = 0
        self.begin()

    def begin(self) -> None:
        rng = self.trace.rng
        items = [rng.randrange(2) for _ in range(rng.randrange(1, 4))]
        late = rng.random() < self.trace.setting.late
        self.asked = Asked(items, rng.randrange(1, 4), loaded=not late, live=True, reserved=self.reserved)
        self.trace.machine.ask(self.asked)
        self.trace.asked.append(self.asked)

    def drive(self) -> None:
        """Between two steps: be killed, roll over, or be given a frame, a prompt or leave to speak."""
        trace, rng, request = self.trace, self.trace.rng, self.asked.request
        quiet = request.rests or request.sleeps
        if rng.random() < trace.sessions.killed or (not self.left and quiet):
            self.end()
        elif request.ended:
            assert not self.modest or trace.setting.failing, "a session within its reservation is never lost"
            self.roll_over()
        elif rng.random() < 0.3:
            pass
        elif request.in_flight:
            rng.choice((request.hold, request.park))()
        elif request.context.length + trace.segment > trace.sessions.rows:
            trace.machine.scheduler.remove(request)
            self.roll_over()
        elif quiet or (self.left and not self.modest and rng.random() < 0.2):
            self.go_on()

    def go_on(self) -> None:
        rng, request, context = self.trace.rng, self.asked.request, self.asked.request.context
        if rng.random() < 0.2:
            request.max_answer = request.num_answer + 1
            request.resume()
            return
        self.left -= 1
        items: list[Item] = [rng.randrange(2) for _ in range(rng.randrange(3))]
        if rng.random() < 0.8:
            request.leave(max(context.num_left, context.num_frames + 1 - self.trace.sessions.window))
            items.append(rng.choice(list(PICTURES)))
        self.asked.later = [[*items, rng.randrange(2)]]
        self.asked.extend(rng.randrange(1, 4))
        request.resume()

    def roll_over(self) -> None:
        self.rolled += 1
        self.begin()

    def end(self) -> None:
        self.ended = True
        if not self.asked.request.ended:
            self.trace.machine.scheduler.remove(self.asked.request)
        self.trace.reservations.give_back(self.reserved)
        self.trace.machine.account()


class LiveTrace(Trace):
    """A `Trace` with sessions."""

    def __init__(self, setting: Setting, sessions: Sessions) -> None:
        largest = max(rows * columns // 4 + 1 for rows, columns in PICTURES.values()) * (sessions.window + 1)
        blocks = -(-sessions.rows // setting.page_size) + 1
        self.most_pages = -(-largest // (setting.vision_size or setting.page_size)) + 1 + setting.groups * blocks
        setting = replace(setting, pages=max(setting.pages, 2 * self.most_pages))
        super().__init__(setting)
        self.sessions, self.live = sessions, []
        self.segment = 8
        """Most rows of a segment, and of what is said after it."""
        self.reservations = Reservations(setting.pages, self.machine.config)
        self.refused = 0
        self.begun = 0

    @property
    def more(self) -> bool:
        return self.begun < self.sessions.count or any(not one.ended for one in self.live)

    def _extend(self) -> bool:
        return super()._extend() or self.more

    def _load(self) -> None:
        """Pixels arrive; sessions begin, until as many as there are to be were killed or have seen all their frames."""
        super()._load()
        if self.begun < self.sessions.count and self.rng.random() < 0.5:
            try:
                self.live.append(Watching(self, self.rng.random() < self.sessions.modest))
                self.begun += 1
            except SessionLimitError:
                self.refused += 1
        for one in [one for one in self.live if not one.ended]:
            one.drive()

    def _cancel(self) -> None:
        for one in self.asked:
            if not one.live and not one.request.ended and self.rng.random() < self.setting.cancelled:
                self.cancelled.add(one.request.number)
                self.machine.scheduler.remove(one.request)
                self.machine.account()

    def _bound(self) -> int:
        return 100_000

    def _check_end(self) -> None:
        self.cancelled.update(one.request.number for one in self.asked if one.live)
        super()._check_end()
        assert all(one.ended for one in self.live)
        assert self.reservations.pages == self.reservations.sessions == 0
