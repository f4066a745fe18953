"""Runs a front with its replicas, from binding its address to shutdown."""

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from mossvl.disk import OwnFolder
from mossvl.replicas.processes import Replicas
from mossvl.replicas.replica import Patience
from mossvl.replicas.shares import Share
from mossvl.server.config import ServerConfig
from mossvl.server.front.front import Front
from mossvl.server.front.replica import serve_replica
from mossvl.server.listening import LAST_SECONDS, bound
from mossvl.server.logs import set_up_log

logger = logging.getLogger("mossvl.server")

STOP_ALLOWANCE = 10.0
"""Seconds in which a replica frees its resources, once its requests have ended."""


def run_front(
    config: ServerConfig,
    shares: Sequence[Share],
    load: Callable[[], Any],
    name: str,
    full: int,
    target: Callable[..., None] = serve_replica,
    patience: Patience | None = None,
) -> None:
    """Serve with a replica for each share until SIGTERM or SIGINT; SIGHUP restarts the replicas, one after the other.

    Args:
        load: loads the model, in a replica's process; can be pickled.
        full: requests that a replica runs at a time.
        target: of the replicas' processes.
        patience: with replicas; by default, with as long a stop as `config` allows requests.

    Raises:
        OptionError: the address cannot be bound.
        MossVLError: no replica is left.
    """
    set_up_log(config.log_content)
    patient = patience or Patience(stop=config.shutdown_timeout + LAST_SECONDS + STOP_ALLOWANCE)
    with bound(config.host, config.port) as listening:
        host, port = listening.getsockname()[:2]
        with OwnFolder("mossvl-front-") as folder:
            given = replace(config, port=port), load, name, folder

            async def serve() -> None:
                def make(watcher: Front) -> Replicas:
                    return Replicas(target, given, shares, watcher, patient)

                front = Front(config, full, make)
                loop = asyncio.get_running_loop()
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, front.stop)
                loop.add_signal_handler(signal.SIGHUP, front.roll)
                logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
                await front.serve(listening)

            try:
                asyncio.run(serve())
            finally:
                logger.info("stopped")
