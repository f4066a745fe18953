"""What VLMEvalKit writes into a model's folder: `MODEL_DATA_acc.csv` and the like, and tables of samples."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mossvl.errors import DataError
from mossvl.evaluation.report.measures import Measure, in_percent
from mossvl.evaluation.report.tables import READABLE, Row, raised, read_json, read_rows, told

HARNESS = "VLMEvalKit"
AGGREGATED = re.compile(r"(?P<run>.+)_(acc\.(csv|json)|score\.(csv|json)|rating\.json)")
SAMPLED = re.compile(r"(?P<run>.+)_(results?|score|auxmatch)\.(xlsx|tsv|json)")
JUDGE = re.compile(r"_(exact_matching|(chat)?gpt[^_]*|qwen[^_]*|deepseek[^_]*)$")
"""Who has told right answers from wrong ones, at the end of the name of samples."""
SCORES = ("hit", "eval_score", "score", "match")
"""Columns of a sample's score."""
OVERALL = ("overall", "final score norm", "final score", "average", "avg")
COUNTED = {"task", "success", "overall", "acc"}
"""Columns of a table of right answers and of questions, by task; that of all of them is `M-Avg`."""
FRAMES = re.compile(r"_(?P<number>[\d.]+)(?P<unit>frame|fps)(?=_|$)")


def is_results(path: Path) -> bool:
    return path.suffix in READABLE and (AGGREGATED.fullmatch(path.name) or SAMPLED.fullmatch(path.name)) is not None


def measures_of(
    paths: Iterable[Path], data: Iterable[str], broken: Callable[[DataError], object] = raised
) -> Iterator[Measure]:
    """The scores of files.

    Args:
        paths: of aggregated scores and of samples, several of each run.
        data: names of known data sets, by which the name of a file is told from that of its model.
        broken: takes the error of a run of which a file cannot be read, or has no score; by default it is raised.
    """
    found = []
    for path in paths:
        with told(broken):
            _is_aggregated(path)
            found.append(path)
    runs: defaultdict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in filter(_is_aggregated, found):
        runs[path.parent, _match(AGGREGATED, path)].append(path)
    for path in found:
        if not _is_aggregated(path):
            own = JUDGE.sub("", _match(SAMPLED, path))
            near = [run for folder, run in runs if folder == path.parent and f"{own}_".startswith(f"{run}_")]
            runs[path.parent, max(near, key=len, default=own)].append(path)
    known = tuple(data)
    for (folder, run), files in runs.items():
        model, task = _named(run, folder, known)
        frames = {("fps" if one["unit"] == "fps" else "nframes"): one["number"] for one in FRAMES.finditer(task)}
        measures: list[Measure] = []
        with told(broken):
            measures = list(_of_run(sorted(files), task, {"checkpoint": model} | frames))
        yield from measures


def _of_run(files: list[Path], task: str, settings: Mapping[str, str]) -> Iterator[Measure]:
    aggregated = [path for path in files if _is_aggregated(path)]
    samples: list[float] = []
    empty = None
    for path in files:
        if not samples and path not in aggregated:
            rows = read_rows(path)
            samples = _scores(rows)
            if rows and "prediction" in rows[0]:
                empty = sum(not str(row["prediction"] or "").strip() for row in rows)
    for path in aggregated:
        for split, (score, n) in _overall(path).items():
            percent, used = in_percent(score, samples)
            name = task if split in ("", "none") else f"{task} ({split})"
            yield Measure(
                *(HARNESS, name, "Overall", percent, n or len(samples) or None, str(path)),
                samples=used,
                empty=empty,
                settings=settings,
            )
    if not aggregated:
        if not samples:
            raise DataError(f"{files[0]}: has no score; expected a column {', '.join(SCORES[:-1])} or {SCORES[-1]}")
        percent, _ = in_percent(sum(samples) / len(samples), samples)
        yield Measure(
            *(HARNESS, task, "mean", percent, len(samples), str(files[0])),
            samples=samples,
            empty=empty,
            settings=settings,
        )


def _match(pattern: re.Pattern[str], path: Path) -> str:
    found = pattern.fullmatch(path.name)
    assert found is not None, "`is_results` was asked before"
    return found["run"]


def _is_aggregated(path: Path) -> bool:
    """`_score.json` has one score for some data sets, and those of samples for others."""
    if AGGREGATED.fullmatch(path.name) is None:
        return False
    return not (path.name.endswith("_score.json") and isinstance(read_json(path), list))


def _named(run: str, folder: Path, known: Iterable[str]) -> tuple[str, str]:
    """MODEL_DATA → model and data set: by the folder, which has the model's name, or by known data sets."""
    for parent in (folder, *folder.parents):
        if parent.name and run.startswith(f"{parent.name}_"):
            return parent.name, run.removeprefix(f"{parent.name}_")
    places = [match.start() for name in known for match in re.finditer(rf"_{re.escape(name)}(?=_|$)", run)]
    if not places:
        return "", run
    return run[: min(places)], run[min(places) + 1 :]


def _scores(rows: list[Row]) -> list[float]:
    """Scores of samples from 0 to 1; none below 0 counts, which is an answer that could not be judged."""
    column = next((name for name in SCORES if rows and name in rows[0]), None)
    values = [_number(row.get(column)) for row in rows] if column is not None else []
    counted = [value for value in values if value is not None and value >= 0]
    return counted if all(value <= 1 for value in counted) else []


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        value = {"true": 1, "false": 0}.get(value.strip().lower(), value.strip().removesuffix("%"))
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _overall(path: Path) -> dict[str, tuple[float, int | None]]:
    """The score of each split ("" if there are none), and the number of samples, if the file has it.

    Raises:
        DataError: there is no score.
    """
    content = read_json(path) if path.suffix == ".json" else None
    rows = [content] if isinstance(content, dict) else read_rows(path)
    found: dict[str, tuple[float, int | None]] = {}
    for row in rows:
        given = {str(name).strip().lower(): value for name, value in row.items()}
        score, n = _counted(given) if given.keys() >= COUNTED else _named_overall(given)
        if score is not None:
            found[str(given.get("split") or "")] = score, None if n is None else int(n)
    if not found:
        raise DataError(f"{path}: no overall score; expected one of the names {', '.join(OVERALL)}")
    return found


def _counted(row: Row) -> tuple[float | None, float | None]:
    return (_number(row["acc"]), _number(row["overall"])) if row["task"] == "M-Avg" else (None, None)


def _named_overall(row: Row) -> tuple[float | None, float | None]:
    value = next((row[name] for name in OVERALL if name in row), None)
    if isinstance(value, dict):  # A rating has an overall of everything, and of durations.
        value = value.get("overall")
    if isinstance(value, list):  # Right answers, questions, and percent.
        return (_number(value[2]), _number(value[1])) if len(value) == 3 else (None, None)
    return _number(value), None
