"""What an actor of a processor does: one engine, which answers batches of rows."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from mossvl.errors import EngineError, InputError, MossVLError, ReplicaError, message_of
from mossvl.options import SamplingParams
from mossvl.queries.query import QueryLike
from mossvl.queries.results import Result
from mossvl.ray.config import ProcessorConfig
from mossvl.ray.rows import ERROR, Row, columns_of, query_of
from mossvl.replicas.again import lost_alone

if TYPE_CHECKING:
    import pyarrow


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

    The engine is in a process of its own, so that a row which kills that process costs itself: see `answers`.

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
        self.llm = MossVL(config.model_source, config=config.engine, apart=True)
        if config.limits is not None:
            self.llm.processor.limits = config.limits
        self.llm.warm_up()
        self.places = asyncio.Semaphore(config.max_concurrent_batches)
        """Of batches that are answered beside each other."""
        self.alone = asyncio.Lock()
        """Held by the call that takes, or has, all places."""

    async def __call__(self, batch: "pyarrow.Table") -> AsyncIterator["pyarrow.Table"]:
        """Yield the batch with the columns of its answers, in the order of its rows.

        Raises:
            MossVLError: a row has failed, and `should_continue_on_error` is not set; or the engine cannot be started
                again.
        """
        rows = batch.to_pylist()
        asked = [self.asked(row) for row in rows]
        results = await self.answers(asked)
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

    async def answers(self, asked: Sequence[Asked]) -> list[Result]:
        """Answer queries. Those that the engine's process has died under are asked again, while other batches wait:
        first together, then each alone. If the process dies even then, the query has killed it.
        """
        async with self.places:
            results = await self.answers_once(asked)
        for most in (self.config.batch_size, 1):
            lost = [place for place, result in enumerate(results) if isinstance(result.error, ReplicaError)]
            for places in (lost[start : start + most] for start in range(0, len(lost), most)):
                async with AsyncExitStack() as stack:
                    await stack.enter_async_context(self.alone)
                    for _ in range(self.config.max_concurrent_batches):
                        await stack.enter_async_context(self.places)
                    again = await self.answers_once([asked[place] for place in places])
                for place, result in zip(places, again, strict=True):
                    results[place] = result
        return [lost_alone(one.error) if isinstance(one.error, ReplicaError) else one for one in results]

    async def answers_once(self, asked: Sequence[Asked]) -> list[Result]:
        """Answer queries, each with its error, if any."""
        return await self.llm.agenerate([one.query for one in asked], [one.params for one in asked])

    def check(self, row: Row, result: Result) -> None:
        """Raise an error that ends the run.

        Raises:
            MossVLError: see `__call__`.
        """
        error = result.error
        if isinstance(error, EngineError) and not isinstance(error, ReplicaError):
            raise error  # Its process cannot be started any more.
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
