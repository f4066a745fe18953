"""What an actor of a processor does: one engine, which answers batches of rows."""

import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mossvl.errors import EngineError, InputError, MossVLError, message_of
from mossvl.options import SamplingParams
from mossvl.queries.query import QueryLike
from mossvl.queries.results import Result
from mossvl.ray.config import ProcessorConfig
from mossvl.ray.rows import ERROR, Row, columns_of, query_of

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger("mossvl.ray")


class Asked(NamedTuple):
    """The query of a row, or its error.

    Attributes:
        told: further columns of the row.
    """

    query: QueryLike
    params: SamplingParams | None = None
    told: Mapping[str, str] = {}


Read = Callable[[Row], Asked]
"""Makes a query of a row, or raises an InputError."""


class Answering:
    """Answers batches of rows; Ray runs several calls at a time, in one event loop.

    Args:
        read: makes a row's query; by default, from its columns.
        names: of settings, for the messages of errors.

    Raises:
        MossVLError: the checkpoint cannot be loaded.
    """

    def __init__(
        self, config: ProcessorConfig, read: Read | None = None, names: Mapping[str, str] | None = None
    ) -> None:
        from mossvl.llm import MossVL

        self.config, self.names = config, names
        self.read = read or (lambda row: Asked(*query_of(row, config.engine.lora or ())))
        self.llm = MossVL(config.model_source, config=config.engine)
        if config.limits is not None:
            self.llm.processor.limits = config.limits
        self.llm.warm_up()

    async def __call__(self, batch: "pyarrow.Table") -> AsyncIterator["pyarrow.Table"]:
        """Yield the batch with the columns of its answers, in the order of its rows.

        Raises:
            MossVLError: a row has failed, and `should_continue_on_error` is not set.
        """
        rows = batch.to_pylist()
        asked = [self.asked(row) for row in rows]
        results = await self.llm.agenerate([one.query for one in asked], [one.params for one in asked])
        for row, result in zip(rows, results, strict=True):
            self.check(row, result)
        told = {name: [one.told[name] for one in asked] for name in (asked[0].told if asked else ())}
        yield with_columns(batch, told | columns_of(results, self.names))

    def asked(self, row: Row) -> Asked:
        """Return the query of a row and its parameters, or the error in its place."""
        if told := row.get(ERROR):
            return Asked(InputError(told))
        try:
            return self.read(row)
        except InputError as error:
            return Asked(error)

    def check(self, row: Row, result: Result) -> None:
        """End the process if its engine is broken, which Ray starts again; raise the error of a row that may not fail.

        Raises:
            MossVLError: see `__call__`.
        """
        error = result.error
        if isinstance(error, EngineError):
            logger.error("the engine has failed, and its process ends: %s", error)
            os._exit(1)
        if error is not None and not self.config.should_continue_on_error:
            named = f" (id {row['id']!r:.100})" if "id" in row else ""
            raise MossVLError(
                f"a row{named} has failed: {message_of(error)}; with should_continue_on_error, the others would be "
                "answered"
            ) from error


def with_columns(table: "pyarrow.Table", columns: dict[str, list[Any]]) -> "pyarrow.Table":
    """Return a table with further columns, in place of those of the same names."""
    import pyarrow

    types = {"generated_tokens": pyarrow.list_(pyarrow.int64()), "time_taken_llm": pyarrow.float64()}
    kept = table.drop_columns([name for name in columns if name in table.column_names])
    for name, values in columns.items():
        kind = types.get(name) or (pyarrow.int64() if name.startswith("num_") else pyarrow.string())
        kept = kept.append_column(name, pyarrow.array(values, kind))
    return kept
