"""A replica of a server: a whole server, for the front alone, in a process of its own.

The front, which imports this, needs no model: what does is imported in the replica's process.
"""

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from mossvl.replicas.living import orphaned, tell_ready
from mossvl.server.config import ServerConfig
from mossvl.server.front.about import About
from mossvl.server.listening import BACKLOG
from mossvl.sources import fork_server

if TYPE_CHECKING:
    from mossvl.llm import MossVL


def serve_replica(
    pipe: Connection, number: int, config: ServerConfig, load: "Callable[[], MossVL]", name: str, folder: Path
) -> None:
    """Serve on a Unix socket until SIGTERM; the target of a replica's process.

    Args:
        folder: what all replicas share; the last one to end removes it if the front is dead.
    """
    fork_server.start()  # It imports PyTorch while this process does.
    from mossvl.server.run import run
    from mossvl.server.service import Place

    # uvicorn raises the signal again once it has shut down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    path = folder / f"{number}-{os.getpid()}.sock"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen(BACKLOG)
    about = About(str(path))
    try:
        place = Place(folder, f"r{number}", f"replica {number}")
        run(config, load, name, place, listening, lambda: tell_ready(pipe, about))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # It ends already.
        path.unlink(missing_ok=True)
        if orphaned():
            shutil.rmtree(folder, ignore_errors=True)
