"""What a step costs: seconds for each kind of work, estimated beforehand and corrected by the time of every step."""

import math
from operator import mul
from typing import NamedTuple

RATE = 0.4
"""Share of the error of an expected time that is corrected after a step, as a logarithm."""
MOST = 3.0
"""An error counts as at most this factor: a step may have waited for a compiler, or for another program."""
RANGE = 64.0
"""Maximum factor between a cost and its estimate, in both directions."""
CAUTION = 2.0
"""Work whose cost is only an estimate is planned as if it cost so much more, as a share of the cost; after one step of
such work a quarter of this, after two a ninth, and so on."""


class Work(NamedTuple):
    """The work of a step by kind; or, of each kind, the seconds that one costs.

    Attributes:
        steps: 1 for a step with rows, which costs what all of these do, such as reading the weights.
        decode_rows: rows that decode.
        read: tokens that these read from pages, each in the layers of one page.
        rows: rows of prompts.
        pairs: pairs of such a row and a token that it sees, each in the layers of one page.
        patches: patches of small frames, of which larger frames are worth more (`StepBudget.work`).
    """

    steps: float = 0.0
    decode_rows: float = 0.0
    read: float = 0.0
    rows: float = 0.0
    pairs: float = 0.0
    patches: float = 0.0


NO_WORK = Work()
GPU_COSTS = Work(5e-3, 3e-5, 1.5e-8, 3.5e-5, 5e-10, 2.5e-6)
"""Of the published size on an H200."""


class Costs:
    """Seconds that each kind of work costs on this device, learned from the times of steps.

    Each cost is corrected by the share that it had in the expected time. So costs stay positive, what was wrong about a
    step is put down to what the step mostly did, and one outlier changes little.

    Args:
        estimate: the costs before any step was measured; positive.

    Attributes:
        seconds: the costs now.
        measured: steps from which each cost was learned, each counted by the share that the cost had in it.
    """

    def __init__(self, estimate: Work = GPU_COSTS) -> None:
        self.estimate = self.seconds = estimate
        self.measured = NO_WORK

    def of(self, work: Work) -> float:
        """Return the expected seconds of a step."""
        return sum(map(mul, work, self.seconds))

    def cautious(self) -> Work:
        """Return the costs by which steps are planned: higher ones for work that was hardly measured yet."""
        pairs = zip(self.seconds, self.measured, strict=True)
        return Work(*(cost * (1 + CAUTION / (1 + count) ** 2) for cost, count in pairs))

    def learn(self, work: Work, seconds: float | None) -> None:
        """Correct the costs by the measured time of a step; without one, or without work, do nothing."""
        expected = self.of(work)
        if not seconds or not expected:
            return
        shares = [amount * cost / expected for amount, cost in zip(work, self.seconds, strict=True)]
        change = RATE * math.log(min(max(seconds / expected, 1 / MOST), MOST)) / sum(share * share for share in shares)
        corrected = [cost * math.exp(change * share) for cost, share in zip(self.seconds, shares, strict=True)]
        pairs = zip(corrected, self.estimate, strict=True)
        self.seconds = Work(*(min(max(cost, first / RANGE), first * RANGE) for cost, first in pairs))
        self.measured = Work(*(count + share for count, share in zip(self.measured, shares, strict=True)))
