"""Decides, in the engine's thread, what a session does next: see, listen, speak on, fall silent, begin anew."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from mossvl.engine.director import Renewed
from mossvl.live.clock import Clock
from mossvl.live.events import (
    Closed,
    Decision,
    Dropped,
    Evicted,
    Interrupted,
    Limit,
    RolledOver,
    Seen,
    Silence,
    SpeechStarted,
    Text,
    Turn,
)
from mossvl.live.inbox import Inbox, Taken
from mossvl.live.kept import Kept
from mossvl.live.options import ENDLESS, LiveOptions
from mossvl.live.outbox import Outbox
from mossvl.live.segments import ROUND_START, Picture, Segment, StreamTokens, segment
from mossvl.processing.pixels import num_vision_tokens
from mossvl.processing.stream import SILENCE
from mossvl.scheduling.context import Context
from mossvl.scheduling.prompt import Place
from mossvl.sources.source import Appended

POLL_SECONDS = 0.005
"""How often a clock that is not the machine's is looked at, while a session waits for it."""


@dataclass(frozen=True)
class Bounds:
    """How large a session's context may become: text tokens, rotary positions, and vision tokens that it sees.

    Attributes:
        reserved_tokens, reserved_vision: text and vision tokens that memory is reserved for.
    """

    tokens: int
    positions: int
    vision: int
    reserved_tokens: int
    reserved_vision: int

    def left(self, end: Place, more: int = 0, sides: int = 0) -> int:
        """How many tokens may be drawn after `more` tokens, and frames of so many merged patches in their longer sides.

        It is below 1 if they do not fit.
        """
        return min(self.tokens - end.row, self.positions - end.position - sides) - more


class LiveDirector:
    """A session's state in the engine's thread.

    Args:
        ends: end tokens of the model.
        close: ends the session, with a reason.
    """

    def __init__(
        self,
        tokens: StreamTokens,
        options: LiveOptions,
        inbox: Inbox,
        outbox: Outbox,
        kept: Kept,
        bounds: Bounds,
        ends: frozenset[int],
        clock: Clock,
        close: Callable[[str], None],
    ) -> None:
        self.tokens, self.options, self.inbox, self.outbox = tokens, options, inbox, outbox
        self.kept, self.bounds, self.clock, self._close = kept, bounds, clock, close
        self.spared = tokens.spared
        self._ends = frozenset() if options.ignore_eos else ends
        self._real = clock is time.monotonic
        self._merge = tokens.merge
        self._number = 0
        """Frames that were given to the model."""
        self.newest: float | None = None
        """Time of the newest frame that was seen."""
        self._fresh: list[Picture] = []
        """Frames whose decision has not been drawn."""
        self._owed = False
        """No token has been drawn after what was appended: nothing more is given before it, also in a new context."""
        self._going = True
        """The last token lets the model draw on."""
        self._speaking = False
        """A reply is not finished."""
        self._final = False
        self._slot_open, self._said = True, False
        self.deciding = True
        """The slot after what was last taken from the inbox is not over; read in any thread, after `Inbox.waiting`."""
        self._slot_left = options.tokens_per_slot or ENDLESS
        self._left = options.max_new_tokens or ENDLESS
        self._may_draw = clock()
        self._granted = self._grant(bounds.tokens // 2)
        self._idle_since = clock()
        self._taken = Taken()
        """What is to be appended next."""
        self._rolled = self._lost = False
        """A new context was begun for what was taken; the old one is lost."""
        self._left_frames = 0
        """Frames of the context that have left the window."""
        self.appended = self.vision = self.count = 0
        """Text tokens and vision tokens that were appended, and tokens that were drawn, since the beginning."""
        self.given: Callable[[int, Taken], None] = lambda after, taken: None
        """Told of what the model is given, after how many tokens."""
        self.held = 0
        """Vision tokens that the model sees."""

    # --- the engine asks -----------------------------------------------------------------------------------------

    def wait(self, drawing: bool = False) -> float:
        if self.inbox.preparing:
            return float("inf")
        if self._taken or self._owed or self.inbox.due(self.count, self._draws_on):
            return 0.0
        now, limit = self.clock(), self.options.idle_timeout
        due = self._may_draw if self._draws_on and not drawing else float("inf")
        if limit is not None:
            due = min(due, self._idle_since + limit)
        if due <= now:
            return 0.0
        return due - now if self._real else POLL_SECONDS if due < float("inf") else due

    def next(self, context: Context) -> Appended | None:
        if not self._taken and not self._owed and self.inbox.due(self.count, self._draws_on):
            self.deciding = True
            self._taken = taken = self.inbox.take(self.options.frames)
            if not taken.interrupts or taken.prompts or taken.pictures:  # To interrupt is no input.
                self._idle_since = self.clock()
            if not self._taken:
                self.deciding = self._slot_open
                return None
            self.given(self.count, self._taken)
        limit = self.options.idle_timeout
        if not self._taken and limit is not None and self.clock() >= self._idle_since + limit:
            self._close("idle")
            return None
        draws = self._draws_on and (self._owed or self._may_draw <= self.clock())
        if self._lost and (self._taken or draws):
            return self._roll_over("preempted")
        if self._taken:
            return self._append(context.end)
        if draws:
            left = self.bounds.left(context.end)
            return self._appended([], [], self._grant(left)) if left > 0 else self._roll_over("length")
        return None

    def drawn(self, token: int) -> bool:
        now = self.clock()
        self.count += 1
        self.kept.drawn(token)
        self._see(now)
        self._granted -= 1
        self._slot_left -= 1
        self._left -= 1
        self._going = True
        if token == self.tokens.silence:
            self._fall_silent(token)
        elif token in self._ends:
            self._fall_silent(token, ends=True)
        else:
            self._say(token)
        if self._going and not self._left:
            self.outbox.tell(Limit(time=self.newest, kind="max_new_tokens"))
        if self._going and not (self._left and self._slot_left):
            self._end_slot(goes_on=True)
        self._end_if_final()
        self._rolled = self._owed = False
        self.deciding = self._slot_open
        return not self._draws_on or not self._granted

    def lost(self) -> None:
        self._lost = True

    def changed(self) -> None:
        self.outbox.announce()

    def disown(self, error: Exception) -> None:
        self.inbox.disown()
        self.outbox.disown(Closed(time=self.newest, reason="error", prefill=[], error=error))

    # --- what is drawn -------------------------------------------------------------------------------------------

    @property
    def _draws_on(self) -> bool:
        return self._going and self._left > 0 and self._slot_left > 0

    def _grant(self, left: int) -> int:
        """How many tokens, `left` at most, may be drawn before `next` is asked again."""
        rate = self.options.tokens_per_second
        if rate is not None:
            now = self.clock()
            # A little late, the next one comes in time; what was not said for long is not made up for.
            on_time = 0 <= now - self._may_draw < 1 / rate
            self._may_draw = (self._may_draw if on_time else now) + 1 / rate
        self._granted = 1 if rate is not None or self.inbox.waiting else min(left, self._left, self._slot_left)
        return self._granted

    def _see(self, now: float) -> None:
        """Tell of the frames that the token which has come is the first after."""
        for picture in self._fresh:
            self.newest = picture.time
            tokens = self._vision(picture)
            lag = max(0.0, now - picture.pushed)
            self.outbox.tell(Seen(time=picture.time, number=self._number, tokens=tokens, lag=lag))
            self._number += 1
        self._fresh = []

    def _vision(self, picture: Picture) -> int:
        return num_vision_tokens([(1, *picture.grid)], self._merge)

    def _fall_silent(self, token: int, ends: bool = False) -> None:
        event = Text(time=self.newest, text="") if ends else Silence(time=self.newest, ends_reply=self._speaking)
        self.outbox.tell(event, token)
        self._going = self._speaking = False
        self._end_slot(goes_on=False)

    def _say(self, token: int) -> None:
        self._said = True
        if not self._speaking:
            self._speaking = True
            responds = token == self.tokens.response
            self.outbox.tell(SpeechStarted(time=self.newest), token if responds else None)
            if responds:
                return
        self.outbox.text(self.newest, token)

    def _end_slot(self, goes_on: bool) -> None:
        if self._slot_open:
            self.outbox.tell(Decision(time=self.newest, silent=not self._said, goes_on=goes_on))
        self._slot_open = False

    def _end_if_final(self) -> None:
        if self._final and not self._draws_on and not self.inbox.waiting and not self._taken:
            self._close("final")

    # --- what is appended ----------------------------------------------------------------------------------------

    def _append(self, end: Place) -> Appended:
        """Append what was taken, or begin a new context for it first."""
        taken = self._taken
        cut = [self.tokens.silence] if taken.interrupts and self._speaking else []
        new, left = self._segment(taken, cut, end)
        if left < 1 and not self._rolled:
            return self._roll_over("length")
        while left < 1 and taken.pictures:  # Even a new context has no room for all of them.
            gone = taken.pictures.pop(0)
            self.outbox.tell(Dropped(time=self.newest, times=(gone.time,), reason="context"))
            new, left = self._segment(taken, cut, end)
        self._taken, self._rolled, self._final = Taken(), False, self._final or taken.final
        if cut:
            self._interrupt()
        if self._final or new.ids:  # No frame follows the last input, so that its reply waits for none.
            self._slot_left = ENDLESS if self._final else self.options.tokens_per_slot or ENDLESS
        # Nothing comes that could end a last reply: it has no more tokens than a context.
        most = self.options.max_new_tokens or (self.bounds.tokens if self._final else ENDLESS)
        if not new.ids:
            self._left = min(self._left, most)
            self.kept.pieces[-1].drawn.extend(cut)
            self.deciding = self._slot_open
            self.outbox.announce()  # No token may come for long.
            self._end_if_final()
            return self._appended(cut, [], 0)
        self._end_slot(goes_on=self._going)
        self._tell_turns(taken, new)
        ids = [*cut, *new.ids]
        self._leave(new.pictures)
        self.kept.append(taken.prompts, new, ids)
        self._slot_open, self._said, self._going, self._owed = True, False, True, True
        self._left = most
        self._fresh = new.pictures
        self.appended += len(ids)
        self.vision += sum(map(self._vision, new.pictures))
        return self._appended(ids, new.pictures, self._grant(left))

    def _segment(self, taken: Taken, cut: list[int], end: Place) -> tuple[Segment, int]:
        """The segment of what was taken, and how many tokens may be drawn after it."""
        always = self.options.inserted_silence == "always"
        new = segment(taken.prompts, taken.pictures, self.tokens.silence, always)
        sides = sum(max(one.grid) // self.tokens.merge for one in new.pictures)
        left = self.bounds.left(end, len(cut) + len(new.ids), sides)
        seen = self.kept.pictures[self._leaving(new.pictures) :]
        vision = sum(map(self._vision, [*seen, *new.pictures]))
        return new, left if vision <= self.bounds.vision else 0

    def _leaving(self, pictures: Sequence[Picture]) -> int:
        """How many frames leave the window for those that come."""
        seen, seconds, frames = self.kept.pictures, self.options.window_seconds, self.options.window_frames
        count = 0
        if pictures and seconds is not None:
            count = sum(picture.time < pictures[-1].time - seconds for picture in seen)
        if frames is not None:
            count = max(count, min(len(seen), len(seen) + len(pictures) - frames))
        return count

    def _leave(self, pictures: Sequence[Picture]) -> None:
        """Let frames leave the window for those that come."""
        seen, count = self.kept.pictures, self._leaving(pictures)
        if count:
            self._left_frames += count
            self.kept.leave(count)
            self.outbox.tell(Evicted(time=self.newest, times=tuple(picture.time for picture in seen[:count])))

    def _interrupt(self) -> None:
        self._end_slot(goes_on=False)
        self.outbox.tell(Interrupted(time=self.newest, raw=SILENCE))
        self._speaking = self._going = False

    def _tell_turns(self, taken: Taken, new: Segment) -> None:
        for prompt, inserted in zip(taken.prompts, new.silences, strict=True):
            self.outbox.tell(Turn(time=self.newest, text=prompt.text, raw=ROUND_START))
            if inserted:
                self.outbox.tell(Silence(time=self.newest, raw=SILENCE, inserted=True, ends_reply=self._speaking))
            self._speaking = False

    def _roll_over(self, reason: Literal["length", "preempted"]) -> Renewed:
        """Begin a new context: a half of the largest at most, with room for the frames that were taken; of what was
        reserved, if there was no more memory."""
        self._rolled, self._lost, self._left_frames = True, False, 0
        bounds = self.bounds
        coming = sum(map(self._vision, self._taken.pictures))
        tokens, positions = bounds.tokens // 2, bounds.positions // 2
        vision = min(bounds.vision // 2, max(0, bounds.vision - coming))
        if reason == "preempted":
            tokens, vision = min(tokens, bounds.reserved_tokens // 2), min(vision, bounds.reserved_vision)
        asked = bool(self.kept.pieces[-1].prompts)
        context = self.kept.renew(tokens, positions, vision)
        unseen = [picture for picture in self._fresh if picture not in context.pictures]
        if unseen:
            self._fresh = [picture for picture in self._fresh if picture not in unseen]
            times = tuple(picture.time for picture in unseen)
            self.outbox.tell(Dropped(time=self.newest, times=times, reason="context"))
            if not self._fresh and not asked:  # There is nothing to decide on.
                self._owed = self._slot_open = self.deciding = False
                self._going = self._speaking
                self._end_if_final()
        told = RolledOver(time=self.newest, kept_tokens=context.kept, kept_frames=len(context.pictures), reason=reason)
        self.outbox.tell(told)
        self.outbox.announce()
        return Renewed(**vars(self._appended(context.ids, context.pictures, 0)))

    def _appended(self, ids: list[int], pictures: list[Picture], room: int) -> Appended:
        self.held = sum(map(self._vision, self.kept.pictures))
        return Appended(
            torch.tensor(ids, dtype=torch.long),
            [(1, *picture.grid) for picture in pictures],
            [picture.patches for picture in pictures],
            [picture.digest for picture in pictures],
            room,
            self._left_frames,
        )
