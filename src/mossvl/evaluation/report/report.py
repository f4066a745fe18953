"""One table of all results: scores with intervals, beside published ones."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mossvl.errors import DataError, InputError
from mossvl.evaluation.report import lmms_eval, vlmevalkit
from mossvl.evaluation.report.measures import Measure, interval
from mossvl.evaluation.report.published import data_sets, metrics, published_for
from mossvl.evaluation.report.tables import raised, told


@dataclass(frozen=True)
class Row:
    """A score beside the published one; scores, differences and bounds in percent, None for what is unknown.

    Attributes:
        low, high, method: see `Interval`.
        difference: score less published score.
        within_noise: the published score, taken for exact, lies in the 95 % interval.
        empty: number of empty answers.
        settings: as text, the checkpoint first.
        source: of the published score.
    """

    benchmark: str
    harness: str
    task: str
    metric: str
    n: int | None
    score: float
    low: float | None
    high: float | None
    method: str | None
    published: float | None
    difference: float | None
    within_noise: bool | None
    empty: int | None
    settings: str
    file: str
    source: str | None


def report(paths: Sequence[str | Path], broken: Callable[[DataError], object] = raised) -> list[Row]:
    """The scores of results.

    Args:
        paths: files that lmms-eval or VLMEvalKit wrote, and folders, which are searched for such files.
        broken: takes the error of each file that cannot be read; by default it is raised.

    Raises:
        InputError: a path does not exist, or there are no results.
        DataError: a file is none that a harness writes.
    """
    files = list(_files(paths))
    of_kit = [path for path in files if not lmms_eval.is_results(path)]
    measures: list[Measure] = []
    for path in files:
        if lmms_eval.is_results(path):
            with told(broken):
                measures += list(lmms_eval.measures_of(path, metrics()))
    measures += vlmevalkit.measures_of(of_kit, data_sets(), broken)
    return [_row(measure) for measure in measures]


def _files(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Files of results, each once: VLMEvalKit links the newest ones from another folder."""
    seen = set()
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; expected results of lmms-eval or VLMEvalKit")
        if path.is_file() and not _is_results(path):
            raise DataError(
                f"{path}: no results; expected lmms-eval's …_results.json, or VLMEvalKit's …_acc.csv, …_score.csv, "
                "…_score.json, …_rating.json or …_result.xlsx"
            )
        found = (
            [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file() and _is_results(one))
        )
        if not found:
            raise InputError(
                f"{path}: there are no results of lmms-eval or VLMEvalKit in this folder; give the one that they wrote "
                "to, such as lmms-eval's --output_path"
            )
        for one in found:
            if one.resolve() not in seen:
                seen.add(one.resolve())
                yield one


def _is_results(path: Path) -> bool:
    return lmms_eval.is_results(path) or vlmevalkit.is_results(path)


def _row(measure: Measure) -> Row:
    known, bounds = published_for(measure), interval(measure)
    given = {name: value for name, value in measure.settings.items() if value}
    return Row(
        benchmark=measure.task if known is None else known.benchmark,
        harness=measure.harness,
        task=measure.task,
        metric=measure.metric,
        n=measure.n,
        score=measure.score,
        low=None if bounds is None else bounds.low,
        high=None if bounds is None else bounds.high,
        method=None if bounds is None else bounds.method,
        published=None if known is None else known.score,
        difference=None if known is None else measure.score - known.score,
        within_noise=None if known is None or bounds is None else bounds.low <= known.score <= bounds.high,
        empty=measure.empty,
        settings=", ".join(f"{name}={value}" for name, value in given.items()),
        file=measure.file,
        source=None if known is None else known.source,
    )


# --- as text -----------------------------------------------------------------------------------------------------


def as_json(rows: Sequence[Row]) -> str:
    return json.dumps([_values(row) for row in rows], indent=1, ensure_ascii=False)


def as_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_values(row) for row in rows)
    return text.getvalue().rstrip("\n")


def _values(row: Row) -> dict[str, Any]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(row).items()}


def as_markdown(rows: Sequence[Row]) -> str:
    """A table, and below it what it does not say: methods, sources, empty answers."""
    lines = [
        "| benchmark | n | score | 95 % interval | published | difference | within the noise | settings |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for row in rows:
        name = row.benchmark if row.published is not None else f"{row.task}, {row.metric}"
        noise = {True: "yes", False: "no", None: ""}[row.within_noise]
        bounds = "" if row.low is None or row.high is None else f"{row.low:.1f} … {row.high:.1f}"
        cells = (
            *(name, "" if row.n is None else f"{row.n:,}", f"{row.score:.1f}", bounds, _figure(row.published)),
            *("" if row.difference is None else f"{row.difference:+.1f}", noise, row.settings),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join([*lines, *_notes(rows)])


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    methods = dict.fromkeys(row.method for row in rows if row.method is not None)
    sources = dict.fromkeys(row.source for row in rows if row.source is not None)
    empty = [f"{row.empty} of {row.n or '?'} in {row.task}" for row in rows if row.empty]
    if methods or sources or empty:
        yield ""
    if methods:
        yield f"Intervals: {', '.join(methods)}. Within the noise: the published score, taken for exact, lies in it."
    for source in sources:
        yield f"Published: {source}."
    if empty:
        yield f"Empty answers, as those of requests that failed: {', '.join(dict.fromkeys(empty))}."
