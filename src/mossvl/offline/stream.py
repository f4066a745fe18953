"""A running batch that is read piece by piece, and can be cancelled query by query."""

from collections.abc import Iterator, Sequence
from typing import Any

from mossvl.errors import OptionError
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.offline.batch import run
from mossvl.offline.query import Message, Query
from mossvl.offline.request import Request, message_of
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.prompt import check_messages


class BatchStream:
    """Answers of a batch as they are generated.

    Iterating yields (index, text) pairs, and last (None, result) with what `offline_batch_generate` returns, which is
    then also in `result`. `cancel(index)` ends one query from any thread; `close()` ends them all.
    """

    def __init__(
        self,
        model: MossVLLMHeadModel,
        processor: MossVLProcessor,
        queries: Sequence[Any],
        session_states: Sequence[Sequence[Message] | None] | None = None,
        raise_on_error: bool = False,
        **generation_defaults: Any,
    ) -> None:
        if isinstance(queries, dict | str) or not isinstance(queries, Sequence):
            raise OptionError(f"queries must be a list of queries, but is {queries!r:.200}")
        sessions = [None] * len(queries) if session_states is None else list(session_states)
        if len(sessions) != len(queries):
            raise OptionError(
                f"session_states has {len(sessions)} sessions for {len(queries)} queries; each query needs its own "
                "(an empty list for a new one)"
            )
        self.result: dict[str, Any] | None = None
        self._sessions: list[list[Message]] = []
        self._raise_on_error = raise_on_error
        self._requests: list[Request | None] = []
        self._failures: dict[int, Exception] = {}
        for index, (given, session) in enumerate(zip(queries, sessions, strict=True)):
            self._sessions.append(list(session) if isinstance(session, list | tuple) else [])
            try:
                if session:
                    check_messages(session)
                query = Query.from_dict(given, **generation_defaults)
                self._requests.append(Request(index, query, query.messages(self._sessions[-1]), processor))
            except Exception as error:
                if raise_on_error:
                    raise
                self._requests.append(None)
                self._failures[index] = error
        self._events = self._run(model)

    def _run(self, model: MossVLLMHeadModel) -> Iterator[tuple[int | None, Any]]:
        for request, chunk, ended in run(model, [request for request in self._requests if request is not None]):
            if chunk:
                yield request.index, chunk
            if ended and request.error is not None and self._raise_on_error and not request.was_cancelled:
                raise request.error
        self.result = self._collect()
        yield None, self.result

    def _collect(self) -> dict[str, Any]:
        results, sessions = [], []
        for index, (request, session) in enumerate(zip(self._requests, self._sessions, strict=True)):
            entry: dict[str, Any] = {"index": index, "text": "", "input_text": "", "messages": list(session)}
            error: Exception | None = self._failures.get(index)
            if request is not None:
                error = request.error
                kept = error is None or (request.was_cancelled and request.query.persist_cancelled_turn)
                entry["text"], entry["input_text"] = request.text.text, request.input_text
                session = request.query.session_after(session, request.text.text if kept else None)
                entry["messages"] = request.messages
            if error is not None:
                entry["error"] = message_of(error)
            results.append(entry)
            sessions.append(session)
        return {"results": results, "session_states": sessions}

    def cancel(self, index: int) -> None:
        """End one query, from any thread; the others go on. Its result keeps the text so far, and an `error`."""
        if not 0 <= index < len(self._requests):
            raise OptionError(f"there is no query {index}; the batch has {len(self._requests)}")
        request = self._requests[index]
        if request is not None:
            request.cancelled.set()

    def close(self) -> None:
        """Cancel every query that has not ended."""
        for request in self._requests:
            if request is not None:
                request.cancelled.set()

    def __iter__(self) -> Iterator[tuple[int | None, Any]]:
        return self._events

    def __next__(self) -> tuple[int | None, Any]:
        return next(self._events)

    def __enter__(self) -> "BatchStream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def wait(self) -> dict[str, Any]:
        """Read to the end and return the result."""
        for _ in self._events:
            pass
        assert self.result is not None
        return self.result
