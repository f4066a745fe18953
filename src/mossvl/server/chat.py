"""Streaming of an answer from the engine to a client."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

from starlette.requests import Request

from mossvl.queries.handle import Handle
from mossvl.server.answers import Completion
from mossvl.server.errors import error_body
from mossvl.server.service import Service
from mossvl.server.streams import ALIVE, DONE, EventStream, event, while_connected

ALIVE_SECONDS = 10.0
"""Silence after which a stream sends a keep-alive."""


async def streamed(service: Service, request: Request, handle: Handle, completion: Completion) -> EventStream:
    """Stream an answer, after its first token or `ALIVE_SECONDS`; an earlier failure sets the HTTP status.

    Raises:
        ClientGone: the client left before the first token.
        MossVLError: the query failed before the first token.
    """
    changes = handle.changes(ALIVE_SECONDS)
    try:
        await while_connected(request, first_token(changes, handle))
        if handle.ended and handle.error is not None:
            raise handle.error
    except BaseException:
        await changes.aclose()
        raise
    pieces = events(service, changes, handle, completion)
    return EventStream(pieces, service.config.stall_timeout, partial(left, service))


async def first_token(changes: AsyncGenerator[None], handle: Handle) -> None:
    """Wait until the first token, the query's end, or `ALIVE_SECONDS`."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not (handle.ended or any(draft.tokens for draft in handle.drafts)):
        if loop.time() - begun > ALIVE_SECONDS or await anext(changes, False) is False:
            return


async def events(
    service: Service, changes: AsyncGenerator[None], handle: Handle, completion: Completion
) -> AsyncGenerator[bytes]:
    """Yield an answer's chunks as server-sent events, with keep-alives between them."""
    loop = asyncio.get_running_loop()
    async with aclosing(changes):
        for piece in completion.opening():
            yield event(piece)
        last, told = handle.ended, loop.time()
        while True:
            news = completion.news()
            for piece in news:
                yield event(piece)
            if last:
                break
            if news:
                told = loop.time()
            elif loop.time() - told >= ALIVE_SECONDS:
                told = loop.time()
                yield ALIVE
            last = await anext(changes, False) is False or handle.ended
    result = handle.result_now
    if result.error is not None:
        refused = service.told(result.error)
        service.metrics.errors.labels(refused.code).inc()
        yield event(error_body(refused))
        return
    for piece in completion.closing(result):
        yield event(piece)
    yield DONE


def left(service: Service, how: str) -> None:
    """Count a stream that its client did not read to the end."""
    if how != "sent":
        service.metrics.disconnects.labels(how).inc()
