"""A running batch: its answers are streamed, and each query can be cancelled alone."""

import queue
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from mossvl.engine.engine import Engine
from mossvl.errors import OptionError, message_of
from mossvl.offline.query import SessionQuery
from mossvl.processing.messages import check_messages
from mossvl.processing.processor import MossVLProcessor
from mossvl.queries.handle import Handle
from mossvl.queries.query import Message
from mossvl.queries.results import Result


class BatchStream:
    """The answers of a batch, as they are generated.

    Queries are checked at once, and submitted when iteration (or `wait`) begins.

    Iteration yields (index, text) pairs and, last, (None, result), where `result` is the return value of
    `offline_batch_generate`; the attribute `result` then holds it too. `cancel(index)` ends one query from any thread;
    `close()` ends all.
    """

    def __init__(
        self,
        engine: Engine,
        processor: MossVLProcessor,
        queries: Sequence[Any],
        session_states: Sequence[Sequence[Message] | None] | None = None,
        raise_on_error: bool = False,
        **generation_defaults: Any,
    ) -> None:
        if isinstance(queries, dict | str) or not isinstance(queries, Sequence):
            raise OptionError(f"queries must be a list of queries, but is {queries!r:.200}")
        if isinstance(session_states, dict):
            raise OptionError("session_states is a dict, not a list; for a result, give result['session_states']")
        sessions = [None] * len(queries) if session_states is None else list(session_states)
        if len(sessions) != len(queries):
            raise OptionError(
                f"session_states has {len(sessions)} sessions for {len(queries)} queries; each query needs its own "
                "(an empty list for a new one)"
            )
        self.result: dict[str, Any] | None = None
        self._engine, self._processor = engine, processor
        self._raise_on_error = raise_on_error
        self._sessions = [list(session) if isinstance(session, list | tuple) else [] for session in sessions]
        self._queries: dict[int, SessionQuery] = {}
        self._failures: dict[int, Exception] = {}
        self._handles: dict[int, Handle] = {}
        self._cancelled: set[int] = set()
        for index, (given, session) in enumerate(zip(queries, sessions, strict=True)):
            try:
                if session:
                    check_messages(session)
                self._queries[index] = SessionQuery.for_text(given, **generation_defaults)
            except Exception as error:
                if raise_on_error:
                    raise
                self._failures[index] = error
        self._events = self._run()

    def _run(self) -> Iterator[tuple[int | None, Any]]:
        news: queue.SimpleQueue[int] = queue.SimpleQueue()
        try:
            for index, query in self._queries.items():
                messages = query.messages(self._sessions[index])
                self._handles[index] = handle = self._engine.submit(query, messages, self._processor)
                if index in self._cancelled:
                    handle.cancel()
                handle.listen(partial(news.put, index))
            unread = set(self._handles)
            while unread:
                index = news.get()
                if index not in unread:
                    continue
                handle = self._handles[index]
                ended = handle.ended
                if chunk := handle.take():
                    yield index, chunk
                if ended:
                    unread.remove(index)
                    if handle.error is not None and self._raise_on_error and not handle.was_cancelled:
                        raise handle.error
            self.result = self._collect()
        finally:
            self.close()
        yield None, self.result

    def _collect(self) -> dict[str, Any]:
        results, sessions = [], []
        for index, session in enumerate(self._sessions):
            entry: dict[str, Any] = {"index": index, "text": "", "input_text": "", "messages": list(session)}
            error: Exception | None = self._failures.get(index)
            if index in self._handles:
                result: Result = self._handles[index].result_now
                query, error = self._queries[index], result.error
                entry |= {"text": result.text, "input_text": result.input_text, "messages": query.messages(session)}
                session = query.session_after_result(session, result)
            if error is not None:
                entry["error"] = message_of(error)
            results.append(entry)
            sessions.append(session)
        return {"results": results, "session_states": sessions}

    def cancel(self, index: int) -> None:
        """End one query, from any thread; its result keeps the text so far and gets an `error`. The others go on."""
        if not 0 <= index < len(self._sessions):
            raise OptionError(f"there is no query {index}; the batch has {len(self._sessions)}")
        self._cancelled.add(index)
        if index in self._handles:
            self._handles[index].cancel()

    def close(self) -> None:
        """Cancel every query that has not ended."""
        for index in self._queries:
            self.cancel(index)

    def __iter__(self) -> Iterator[tuple[int | None, Any]]:
        return self._events

    def __next__(self) -> tuple[int | None, Any]:
        return next(self._events)

    def __enter__(self) -> "BatchStream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def wait(self) -> dict[str, Any]:
        """Wait for all answers and return the result."""
        for _ in self._events:
            pass
        assert self.result is not None
        return self.result
