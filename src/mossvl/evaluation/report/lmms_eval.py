"""What lmms-eval writes with `--output_path` and `--log_samples`: `…_results.json` and `…_samples_TASK.jsonl`."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mossvl.errors import DataError
from mossvl.evaluation.report.measures import Measure, in_percent
from mossvl.evaluation.report.tables import read_json

RESULTS = "results.json"
DATED = re.compile(rf"[\dT_.:-]*{re.escape(RESULTS)}")
HARNESS = "lmms-eval"
PAIRS = (("pred_answer", "answer"), ("pred_answer", "gt_answer"), ("pred", "ground_truth"), ("pred", "answer"))
"""Keys of a sample's answer and of the right one, where a task gives no score of a sample."""
SETTINGS = {"pretrained": "checkpoint", "checkpoint": "checkpoint", "model": "checkpoint"}


def is_results(path: Path) -> bool:
    """Whether a file has the name of results: a date comes before, and not a model."""
    return DATED.fullmatch(path.name) is not None


def measures_of(path: Path, wanted: Mapping[str, Sequence[str]]) -> Iterator[Measure]:
    """The scores of a run.

    Args:
        path: of its `…_results.json`, which samples are beside.
        wanted: metrics of tasks; of other tasks, all metrics.

    Raises:
        DataError: it is no such file, or its samples are broken.
    """
    run = read_json(path)
    if not isinstance(run, dict) or not isinstance(run.get("results"), dict):
        raise DataError(f"{path}: no results of lmms-eval; expected an object with 'results'")
    settings, counts = _settings(run), _counts(run)
    for task, metrics in run["results"].items():
        if not isinstance(metrics, dict):
            raise DataError(f"{path}: the results of {task} are {metrics!r:.80}; expected an object of metrics")
        samples = _read_samples(path, task)
        empty = None if samples is None else sum(not _answer(sample) for sample in samples)
        for name, value in metrics.items():
            metric, _, chosen = name.partition(",")
            number = _number(value)
            if number is None or "_stderr" in metric or metric not in wanted.get(task, [metric]):
                continue
            own = [_score(sample, metric) for sample in samples or ()]
            known = [one for one in own if one is not None and 0 <= one <= 1]
            score, used = in_percent(number, known if len(known) == len(own) else ())
            stderr = _number(metrics.get(f"{metric}_stderr,{chosen}"))
            yield Measure(
                harness=HARNESS,
                task=task,
                metric=metric,
                score=score,
                n=len(samples) if samples is not None else counts.get(task),
                file=str(path),
                samples=used,
                stderr=None if stderr is None else stderr * (100 if score != number or number == 0 else 1),
                empty=empty,
                settings=settings,
            )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _counts(run: Mapping[str, Any]) -> dict[str, int]:
    """Samples of each task, and of each group all those of its tasks."""
    found = {task: _number(_object(one).get("effective")) for task, one in _object(run.get("n-samples")).items()}
    counts = {task: int(number) for task, number in found.items() if number is not None}
    for group, tasks in _object(run.get("group_subtasks")).items():
        if tasks and all(task in counts for task in tasks):
            counts.setdefault(group, sum(counts[task] for task in tasks))
    return counts


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _settings(run: Mapping[str, Any]) -> dict[str, str]:
    """The model's arguments, and what of the harness changes an answer."""
    config = _object(run.get("config"))
    given = config.get("model_args") or ""
    pairs = given.items() if isinstance(given, dict) else re.findall(r"([^=,]+)=([^,]*)", str(given))
    settings = {SETTINGS.get(str(name), str(name)): str(value) for name, value in pairs}
    for name in ("gen_kwargs", "limit"):
        if config.get(name):
            settings[name] = str(config[name])
    return settings


def _read_samples(results: Path, task: str) -> list[dict[str, Any]] | None:
    path = results.with_name(f"{results.name.removesuffix(RESULTS)}samples_{task}.jsonl")
    if not path.is_file():
        return None
    samples = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            sample = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}: line {number} is no JSON ({error}); was it written to its end?") from error
        if not isinstance(sample, dict):
            raise DataError(f"{path}: line {number} is {sample!r:.80}; expected an object")
        samples.append(sample)
    return samples


def _answer(sample: Mapping[str, Any]) -> str:
    given = sample.get("filtered_resps", "?")
    return "".join(map(str, given)).strip() if isinstance(given, list) else str(given).strip()


def _score(sample: Mapping[str, Any], metric: str) -> float | None:
    """The score of a sample: the metric's value, its `score`, or whether the answer is the right one."""
    value = sample.get(metric)
    if isinstance(value, bool | int | float):
        return float(value)
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("score"), bool | int | float):
        return float(value["score"])
    pair = next((pair for pair in PAIRS if all(name in value for name in pair)), None)
    return None if pair is None else float(str(value[pair[0]]) == str(value[pair[1]]))
