"""What lmms-eval writes with `--output_path` and `--log_samples`: `…_results.json` and `…_samples_TASK.jsonl`."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from mossvl.errors import DataError
from mossvl.evaluation.report.measures import Measure, in_percent
from mossvl.evaluation.report.tables import read_json

RESULTS = "results.json"
DATED = re.compile(rf"[\dT_.:-]*{re.escape(RESULTS)}")
HARNESS = "lmms-eval"
PAIRS = (("pred_answer", "answer"), ("pred_answer", "gt_answer"), ("pred", "ground_truth"), ("pred", "answer"))
"""Keys of a sample's answer and of the right one, where a task gives no score of a sample."""
UNFILTERED = ("", "none")
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
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
        raise DataError(f"{path}: no results of lmms-eval; expected an object with 'results'")
    run = _Run(path, content)
    for task, given in run.results.items():
        if not isinstance(given, dict):
            raise DataError(f"{path}: the results of {task} are {given!r:.80}; expected an object of metrics")
        for (metric, chosen), (score, stderr) in run.scores(task).items():
            if metric in wanted.get(task, [metric]):
                yield run.measure(task, metric, chosen, score, stderr)
    for group, tasks in run.groups.items():  # lmms-eval gives some groups no score of their own.
        known = [name for task in tasks for name in run.scores(task)]
        for name in dict.fromkeys(one for one in known if one[0] in wanted.get(group, ())):
            if name not in run.scores(group) and known.count(name) == len(tasks):
                yield run.measure(group, *name, mean(run.scores(task)[name][0] for task in tasks), None)


class _Run:
    """The content of a file of results, and the samples beside it."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self.path, self.results, self.settings = path, content["results"], _settings(content)
        self.groups = {group: tasks for group, tasks in _object(content.get("group_subtasks")).items() if tasks}
        counted = _object(content.get("n-samples"))
        self.counts = {task: _number(_object(one).get("effective")) for task, one in counted.items()}

    def scores(self, task: str) -> dict[tuple[str, str], tuple[float, float | None]]:
        """Score and standard error by metric and filter, which is what reads the answers."""
        given = _object(self.results.get(task))
        named = {name: (name.partition(","), _number(value)) for name, value in given.items()}
        return {
            (metric, chosen): (score, _number(given.get(f"{metric}_stderr,{chosen}")))
            for (metric, _, chosen), score in named.values()
            if score is not None and "_stderr" not in metric
        }

    def samples(self, task: str, chosen: str) -> list[dict[str, Any]] | None:
        """Those of a task, or of all tasks of a group; None if they were not written.

        A task of several filters has a sample of each document for each of them, in their order and without their
        names.
        """
        if task not in self.groups:
            named = [name.partition(",") for name in _object(self.results.get(task))]
            filters, samples = (
                list(dict.fromkeys(one for _, comma, one in named if comma)),
                _read_samples(self.path, task),
            )
            if samples is None or len(filters) < 2:
                return samples
            return _occurrence(samples, filters.index(chosen)) if chosen in filters else None
        parts = [self.samples(one, chosen) for one in self.groups[task]]
        return None if None in parts else [sample for part in parts for sample in part or ()]

    def count(self, task: str) -> int | None:
        if task not in self.groups:
            number = self.counts.get(task)
            return None if number is None else int(number)
        parts = [self.count(one) for one in self.groups[task]]
        return None if None in parts else sum(part or 0 for part in parts)

    def measure(self, task: str, metric: str, chosen: str, given: float, stderr: float | None) -> Measure:
        samples = self.samples(task, chosen)
        own = [_score(sample, metric) for sample in samples or ()]
        known = [one for one in own if one is not None and 0 <= one <= 1]
        score, used = in_percent(given, known if len(known) == len(own) else ())
        return Measure(
            harness=HARNESS,
            task=task,
            metric=metric,
            score=score,
            n=self.count(task) if samples is None else len(samples),
            file=str(self.path),
            samples=used,
            stderr=None if stderr is None else stderr * (100 if score != given or given == 0 else 1),
            empty=None if samples is None else sum(not _answer(sample) for sample in samples),
            settings=self.settings if chosen in UNFILTERED else {**self.settings, "filter": chosen},
        )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


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


def _occurrence(samples: Sequence[dict[str, Any]], wanted: int) -> list[dict[str, Any]]:
    """Of the samples of each document, the one that has `wanted` before it."""
    before: Counter[str] = Counter()
    found = []
    for sample in samples:
        document = str(sample.get("doc_id"))
        if before[document] == wanted:
            found.append(sample)
        before[document] += 1
    return found


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
