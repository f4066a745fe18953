"""Answers to requests of every API, whole or streamed from the engine to a client."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from mossvl.errors import GenerationCancelled, MossVLError
from mossvl.queries.handle import Handle, changes_of, over
from mossvl.queries.results import Result
from mossvl.queries.waker import PAUSE
from mossvl.server.exchange import Exchange
from mossvl.server.service import Service
from mossvl.server.streams import EventStream, event, while_connected

logger = logging.getLogger("mossvl.server")

ALIVE_SECONDS = 10.0
"""Silence after which a stream sends a keep-alive."""


async def answered(service: Service, request: Request, kind: type[Exchange[Any]]) -> Response:
    """Answer a request of an API, whole or as server-sent events.

    Raises:
        ClientGone: the client left before the answer, or before the first token of a stream.
        MossVLError: the request is refused, or its query has failed.
    """
    _ = service.ready
    body, request_id = await request.body(), request.state.request_id
    exchange = await anyio.to_thread.run_sync(service.exchange, kind, body, request_id, request.state.key)
    limiter = service.checks if exchange.formed else None
    await anyio.to_thread.run_sync(service.begin, exchange, body, limiter=limiter)
    loop = asyncio.get_running_loop()
    for handle in exchange.handles:
        tell = partial(loop.run_in_executor, None, ended, service, handle, request_id)
        handle.when_ended(partial(loop.call_soon_threadsafe, tell))
    try:
        if exchange.stream:
            return await streamed(service, request, exchange)
        results = await while_connected(request, results_of(exchange.handles))
    except MossVLError as error:
        raise exchange.placed(error) from error
    return Response(await anyio.to_thread.run_sync(exchange.whole, results), media_type="application/json")


async def results_of(handles: Sequence[Handle]) -> list[Result]:
    """Wait for queries that belong together; when one fails, the others are cancelled.

    Raises:
        MossVLError: a query has failed.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(handle.succeeding()) for handle in handles]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def ended(service: Service, handle: Handle, request_id: str) -> None:
    """Record an ended query in the metrics and the log.

    Runs in the event loop's thread pool, because counting a long answer is slow; the loop logs what this raises.
    """
    result = handle.result_now
    service.metrics.ended(result, [draft.times for draft in handle.drafts])
    if service.config.log_content:
        logger.info(
            "%s gets: %s", request_id, json.dumps([answer.text for answer in result.answers], ensure_ascii=False)
        )


async def streamed(service: Service, request: Request, exchange: Exchange[Any]) -> EventStream:
    """Stream an answer, after its first token or `ALIVE_SECONDS`; an earlier failure sets the HTTP status.

    Raises:
        ClientGone: the client left before the first token.
        MossVLError: the query failed before the first token.
    """
    changes = changes_of(exchange.handles, ALIVE_SECONDS, PAUSE)
    try:
        await while_connected(request, first_token(changes, exchange.handles))
        if (error := error_of(exchange.handles)) is not None:
            raise error
    except BaseException:
        await changes.aclose()
        raise
    pieces = events(service, changes, exchange)
    return EventStream(pieces, service.config.stall_timeout, partial(left, service))


async def first_token(changes: AsyncGenerator[None], handles: Sequence[Handle]) -> None:
    """Wait until the first token of each query, the failure of one, or `ALIVE_SECONDS`."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not (over(handles) or all(map(begun_answer, handles))):
        if loop.time() - begun > ALIVE_SECONDS or await anext(changes, False) is False:
            return


def begun_answer(handle: Handle) -> bool:
    """Return whether a query has ended or an answer to it has begun."""
    return handle.ended or any(draft.tokens for draft in handle.drafts)


async def events(service: Service, changes: AsyncGenerator[None], exchange: Exchange[Any]) -> AsyncGenerator[bytes]:
    """Yield an answer's events, with keep-alives between them."""
    loop, handles = asyncio.get_running_loop(), exchange.handles
    async with aclosing(changes):
        for piece in exchange.opening():
            yield event(piece)
        last, told = over(handles), loop.time()
        while True:
            news = exchange.news()
            for piece in news:
                yield event(piece)
            if last:
                break
            if news:
                told = loop.time()
            elif loop.time() - told >= ALIVE_SECONDS:
                told = loop.time()
                yield exchange.alive
            last = await anext(changes, False) is False or over(handles)
    error = error_of(handles)
    if error is not None:
        refused = service.told(exchange.placed(error))
        service.metrics.errors.labels(refused.code).inc()
        for piece in exchange.failed(refused):
            yield event(piece)
        return
    results = [handle.result_now for handle in handles]
    for piece in await anyio.to_thread.run_sync(exchange.closing, results):  # It may store a long conversation.
        yield event(piece)
    yield exchange.done


def error_of(handles: Sequence[Handle]) -> Exception | None:
    """Return why a query has failed, if one has: the reason, rather than that others were cancelled for it."""
    errors = [handle.error for handle in handles if handle.error is not None]
    return min(errors, key=lambda error: isinstance(error, GenerationCancelled), default=None)


def left(service: Service, how: str) -> None:
    """Count a stream that its client did not read to the end."""
    if how != "sent":
        service.metrics.disconnects.labels(how).inc()
