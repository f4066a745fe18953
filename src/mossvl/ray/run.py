"""`mossvl run --ray`: questions as a dataset of their places; each engine reads the questions that it answers."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from mossvl.data.questions import Question, Questions
from mossvl.errors import InputError, MossVLError
from mossvl.media.limits import MediaLimits
from mossvl.ray.answering import Asked
from mossvl.ray.cluster import connected, engines, errors_told
from mossvl.ray.config import ProcessorConfig
from mossvl.ray.processor import answered
from mossvl.ray.rows import Row

Query = dict[str, Any] | InputError
ROWS = 32
"""Least number of questions that go to an engine together."""
BLOCKS = 10_000
"""Most blocks of questions: Ray keeps account of each."""


@dataclass(frozen=True)
class Reading:
    """Makes the query of a row, which is a question's index, where the question is to be answered.

    Attributes:
        asking: makes of a question the first keys of its answer, and its query or error.
    """

    questions: Questions
    asking: Callable[[Question], tuple[dict[str, Any], Query]]

    def __call__(self, row: Row) -> Asked:
        """Read a question.

        Raises:
            MossVLError: the file is not there on this machine, or has changed; this is no fault of the question.
        """
        try:
            first, query = self.asking(self.questions[row["index"]])
        except InputError as error:
            raise MossVLError(str(error)) from error
        return Asked(query, told={"query": first["query"], "id": json.dumps(first["id"]) if "id" in first else ""})


def answers_of(
    questions: Questions,
    pending: Sequence[int],
    asking: Callable[[Question], tuple[dict[str, Any], Query]],
    address: str,
    checkpoint: str,
    limits: MediaLimits,
    engine_options: Mapping[str, Any],
    names: Mapping[str, str],
    begin: Callable[[], None],
) -> Iterator[dict[str, Any]]:
    """Yield the answers of questions, with the words of `ray.data.llm`, in the order in which they are complete.

    Args:
        pending: indices of the questions.
        address: HOST:PORT, "auto" for the cluster of this machine, "local" for one of its own, or "" for any of these.
        names: of settings, for the messages of errors.
        begin: called when the cluster is there.

    Raises:
        MossVLError: there is no cluster, no node can run an engine, or an engine cannot begin.
    """
    with ExitStack() as stack:
        stack.enter_context(errors_told())
        stack.enter_context(connected(address))
        config = engines(
            ProcessorConfig(
                model_source=checkpoint,
                engine_kwargs={name: value for name, value in engine_options.items() if value is not None},
                should_continue_on_error=True,
                limits=limits,
            )
        )
        begin()
        for batch in _answered(questions, pending, asking, config, names).iter_batches(
            batch_size=None, batch_format="pyarrow"
        ):
            for row in batch.to_pylist():
                given_id = row.pop("id")
                yield (
                    {"index": row.pop("index"), "query": row.pop("query")}
                    | ({"id": json.loads(given_id)} if given_id else {})
                    | row
                )


def _answered(
    questions: Questions,
    pending: Sequence[int],
    asking: Callable[[Question], tuple[dict[str, Any], Query]],
    config: ProcessorConfig,
    names: Mapping[str, str],
) -> Any:
    """Return the dataset of answers; a block of it is written as a whole."""
    import pyarrow
    from ray.data import from_arrow

    size = max(ROWS, -(-len(pending) // BLOCKS))
    indices = np.asarray(pending, dtype=np.int64)
    blocks = [pyarrow.table({"index": indices[start : start + size]}) for start in range(0, max(1, len(indices)), size)]
    return answered(from_arrow(blocks), config, Reading(questions, asking), names)
