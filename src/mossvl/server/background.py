"""Background tasks of a server: load the model, measure event-loop lag, expire uploads, end requests at shutdown."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

import anyio.to_thread

from mossvl.errors import MossVLError
from mossvl.malloc import trim
from mossvl.server.service import Service

logger = logging.getLogger("mossvl.server")

STARTING = "mossvl-starting"
"""The name of the thread that loads the model."""
TIDY_SECONDS = 10.0
LAG_SECONDS = 0.1
"""Interval between measurements of the event loop's lag."""


async def start(service: Service, failed: Callable[[], None]) -> None:
    """Load the service's model in a daemon thread, which a shutdown does not wait for."""
    loop, started = asyncio.get_running_loop(), asyncio.Future[None]()

    def tell(error: Exception | None) -> None:
        if not started.done():
            started.set_exception(error) if error is not None else started.set_result(None)

    def run() -> None:
        error: Exception | None = None
        try:
            service.start()
        except Exception as raised:
            error = raised
        with suppress(RuntimeError):  # The loop has ended.
            loop.call_soon_threadsafe(tell, error)

    threading.Thread(target=run, name=STARTING, daemon=True).start()
    try:
        await started
        logger.info("ready: %s", service.name)
        service.when_ready()
    except Exception as error:
        service.failed = error
        if not isinstance(error, MossVLError):  # `run` raises it, and an expected error needs no traceback.
            logger.exception("the model cannot be loaded")
        failed()


async def cut_off(service: Service) -> None:
    """At shutdown, give running requests `shutdown_timeout` seconds, then end them with the error "stopping"."""
    while not service.stopping:
        await asyncio.sleep(LAG_SECONDS)
    logger.info("stopping: running requests have %g seconds to end", service.config.shutdown_timeout)
    await asyncio.sleep(service.config.shutdown_timeout)
    await anyio.to_thread.run_sync(service.cancel_all)


async def watch_lag(service: Service) -> None:
    """Measure the event loop's lag, periodically."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_SECONDS
        await asyncio.sleep(LAG_SECONDS)
        service.metrics.lag.observe(max(0.0, loop.time() - due))


async def tidy_up(service: Service) -> None:
    """Delete expired uploads and responses, and return free memory to the system, periodically."""
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        for work in (service.uploads.forget_old, service.responses.forget_old, trim):
            try:
                await anyio.to_thread.run_sync(work)
            except (MossVLError, OSError) as error:  # As of a full disk, which may have room later.
                logger.warning("what has expired cannot be removed: %s", error)
