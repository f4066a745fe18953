"""Scores that were published, by the names of benchmarks in the harnesses: `published.toml`."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mossvl.evaluation.report import lmms_eval, vlmevalkit
from mossvl.evaluation.report.measures import Measure


@dataclass(frozen=True)
class Published:
    """A published score.

    Attributes:
        benchmark: its name in the publication.
        score: percent.
        source: where it was published, with what is told of the settings.
        lmms_eval: its task and metric in lmms-eval, if it has it.
        vlmevalkit: names of its data sets in VLMEvalKit, without frames.
    """

    benchmark: str
    score: float
    source: str
    lmms_eval: tuple[str, str] | None = None
    vlmevalkit: Sequence[str] = ()


@cache
def published() -> tuple[Published, ...]:
    """All published scores, in the order of their publication."""
    content = tomllib.loads((Path(__file__).parent / "published.toml").read_text(encoding="utf-8"))
    return tuple(
        Published(
            benchmark=one["benchmark"],
            score=float(one["score"]),
            source=content["sources"][one.get("source", content["source"])],
            lmms_eval=(one["lmms_eval"][0], one["lmms_eval"][1]) if "lmms_eval" in one else None,
            vlmevalkit=tuple(one.get("vlmevalkit", ())),
        )
        for one in content["scores"]
    )


def metrics() -> Mapping[str, Sequence[str]]:
    """The published metric of each task of lmms-eval."""
    return {one.lmms_eval[0]: [one.lmms_eval[1]] for one in published() if one.lmms_eval is not None}


def published_for(measure: Measure) -> Published | None:
    """What was published for the benchmark of a measure; None if nothing was.

    Names of VLMEvalKit are compared without the frames that they end with, splits without their names.
    """
    if measure.harness == lmms_eval.HARNESS:
        return next((one for one in published() if one.lmms_eval == (measure.task, measure.metric)), None)
    task = vlmevalkit.FRAMES.sub("", measure.task.split(" (")[0])
    return next((one for one in published() if task in one.vlmevalkit), None)


def data_sets() -> list[str]:
    """Names of data sets in VLMEvalKit."""
    return [name for one in published() for name in one.vlmevalkit]
