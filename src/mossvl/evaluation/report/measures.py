"""Scores as harnesses give them, in percent, and their 95 % intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Z = 1.959964
"""Standard deviations of a 95 % interval."""
RESAMPLES = 2_000
NEAR = 6e-4
"""Largest difference of a mean of samples from the score that a harness rounds to three digits, as fractions."""


@dataclass(frozen=True)
class Measure:
    """A score of a benchmark.

    Attributes:
        harness: "lmms-eval" or "VLMEvalKit".
        task, metric: by their names in the harness.
        score: percent.
        n: number of samples; None if unknown.
        samples: score of each sample, from 0 to 1, if the score is their mean; else empty.
        stderr: standard error of the score, percent, as the harness gives it.
        empty: number of empty answers; None if unknown.
        settings: what the model was given: `checkpoint`, `fps`, `max_frames`, …; and the `filter` that reads
            answers, where lmms-eval names one.
        file: where the score was read.
    """

    harness: str
    task: str
    metric: str
    score: float
    n: int | None
    file: str
    samples: Sequence[float] = ()
    stderr: float | None = None
    empty: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Interval:
    """The 95 % interval of a score, percent.

    Attributes:
        method: "Wilson" for a mean of zeros and ones, "bootstrap" for another mean of samples, "normal" where
            only a standard error is known, "Wilson, n alone" where not even that is: the score is taken for an
            accuracy.
    """

    low: float
    high: float
    method: str


def interval(measure: Measure) -> Interval | None:
    """The interval of a score; None where nothing is known that would give one."""
    samples = measure.samples
    if samples and set(samples) <= {0.0, 1.0}:
        return Interval(*wilson(sum(samples) / len(samples), len(samples)), "Wilson")
    if samples:
        return Interval(*bootstrap(samples), "bootstrap")
    if measure.stderr is not None and measure.stderr > 0:
        margin = Z * measure.stderr
        return Interval(max(0.0, measure.score - margin), min(100.0, measure.score + margin), "normal")
    if measure.n and 0 <= measure.score <= 100:
        return Interval(*wilson(measure.score / 100, measure.n), "Wilson, n alone")
    return None


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's interval of a share of `n`, percent."""
    middle, wide = share + Z**2 / (2 * n), Z * math.sqrt(share * (1 - share) / n + (Z / (2 * n)) ** 2)
    low, high = ((middle + sign * wide) / (1 + Z**2 / n) for sign in (-1, 1))
    # The bounds of 0 and 1 are these themselves, which rounding may miss.
    return 100 * (low if share > 0 else 0.0), 100 * (high if share < 1 else 1.0)


def bootstrap(samples: Sequence[float]) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of means of resamples, percent; the same for the same samples."""
    values, generator = np.asarray(samples, dtype=np.float64), np.random.default_rng(0)
    means = [generator.choice(values, len(values)).mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return 100 * float(low), 100 * float(high)


def in_percent(score: float, samples: Sequence[float]) -> tuple[float, Sequence[float]]:
    """A score that is a fraction or percent, as percent; and the samples, if it is their mean, else none."""
    if samples:
        mean = sum(samples) / len(samples)
        for scale in (1, 100):
            if abs(score / scale - mean) <= NEAR:
                return 100 * mean, samples
    return (100 * score if 0 <= score <= 1 else score), ()
