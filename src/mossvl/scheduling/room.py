"""What one step may still compute of prompts, while it is planned."""

import math
from operator import mul

from mossvl.scheduling.budget import StepBudget
from mossvl.scheduling.costs import Costs, Work

LARGE_SHARE = 0.25
"""Share of a step's time that is kept for a large frame, so that smaller work never holds it up for ever."""
MULTIPLE = 32
"""Rows of a prompt are cut at multiples of this, where there are as many."""


class Room:
    """What one step may still compute of prompts.

    Beside requests that are decoding or live, rows and frames share the time that the budget's gap leaves. A bound of
    the settings takes the place of the time.

    Args:
        work: of the step's decoding.
        beside: there are such requests.
        large: a large frame waits for its next part.

    Attributes:
        work: of all that is planned for the step.
    """

    def __init__(self, budget: StepBudget, costs: Costs, work: Work, beside: bool, large: bool = False) -> None:
        self._budget, self._costs, self.work = budget, costs.cautious(), work
        mixed_tokens, mixed_patches = budget.mixed_tokens, budget.mixed_patches
        self._beside = beside
        self._tokens, self._patches = budget.tokens, float(budget.patches)
        self._seconds = math.inf
        if self._beside:
            self._tokens = budget.tokens if mixed_tokens is None else mixed_tokens
            self._patches = budget.patches if mixed_patches is None else mixed_patches
            self._seconds = budget.left(sum(map(mul, work, self._costs)))
        self._kept = LARGE_SHARE * min(self._seconds, budget.left(0)) if large else 0.0
        self._seconds -= self._kept
        self._used = self._has_frames = False

    @property
    def is_used_up(self) -> bool:
        return self._used and (self._seconds <= 0 or (self._tokens <= 0 and self._patches <= 0))

    @property
    def has_tokens(self) -> bool:
        return self._tokens > 0 and (self._seconds > 0 or not self._used)

    def take_rows(self, most: int, seen: int) -> int:
        """Take up to `most` rows of a prompt, which see up to `seen` tokens each; return how many.

        The first rows of a step are at least one.
        """
        cost = 0.0 if self._beside and self._budget.mixed_tokens is not None else self._costs.rows
        cost += self._costs.pairs * seen if cost else 0.0
        fit = int(min(most, self._seconds / cost if cost else most))
        if MULTIPLE < fit < most:
            fit -= fit % MULTIPLE
        rows = min(self._tokens, max(fit, 0 if self._used else 1))
        if rows:
            self._spend(rows * cost)
            self._tokens -= rows
            self.work = self.work._replace(rows=self.work.rows + rows, pairs=self.work.pairs + rows * seen)
        return rows

    def take_frame(self, patches: int) -> bool:
        """Take a frame, if it fits. The first frame of a step may exceed the patches; what is first, the time, too."""
        work = self._budget.work(patches)
        cost = 0.0 if self._beside and self._budget.mixed_patches is not None else self._costs.patches * work
        if self._patches <= 0 or (patches > self._patches and self._has_frames):
            return False
        if cost > self._seconds and self._used:
            return False
        self._spend(cost)
        self._patches -= patches
        self._has_frames = True
        self.work = self.work._replace(patches=self.work.patches + work)
        return True

    def close_frames(self) -> None:
        """Take no more frames: later ones would overtake one that did not fit."""
        self._patches = 0

    def take_part(self, patches: int, done: float, alone: bool) -> float:
        """Take the next part of a large frame, of which the share `done` is done; return the share done after it.

        Args:
            alone: the step does nothing else.
        """
        budget, whole = self._budget, self._budget.work(patches)
        part: float = budget.patches
        if not alone and budget.mixed_patches is not None:
            part = budget.mixed_patches
        elif not alone:
            seconds = self._kept + (max(0.0, self._seconds) if self._beside else 0.0)
            part = min(part, seconds / self._costs.patches)
        until = min(1.0, done + part / whole)
        self.work = self.work._replace(patches=self.work.patches + (until - done) * whole)
        return until

    def _spend(self, seconds: float) -> None:
        self._used = True
        self._seconds -= seconds
