"""Main loop of a decoder process: load for one request after the other, until the pipe is closed."""

import os
import pickle
import signal
import tempfile
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from multiprocessing import forkserver
from multiprocessing.connection import Connection

import torch
from transformers.utils import logging

from mossvl.errors import MediaError, MossVLError
from mossvl.forms.process import NICENESS, limit_memory, silence_libraries
from mossvl.importing import without_collector
from mossvl.malloc import limit_arenas, trim
from mossvl.orphans import continue_when_orphaned
from mossvl.processing.processor import MossVLProcessor
from mossvl.sources.files import Load
from mossvl.sources.memory import Budget, MediaMemory
from mossvl.sources.source import Event, Frame, Loaded

REMEMBERED = 256
"""Entries of a decoder process's media cache."""
IDLE_SECONDS = 1.0
"""Seconds without a request after which a decoder process returns free memory to the system."""
LIBRARIES = ("av", "av.subtitles.stream")
"""Modules that the first file would import."""


def serve(pipe: Connection, given: bytes, memory: int, folder: str) -> None:
    """Run a decoder process, until the pipe is closed.

    Args:
        given: the pickled processor.
        memory: bytes that the process may use beyond its memory at start.
        folder: for the process's temporary files.
    """
    continue_when_orphaned()
    _let_parent_end()
    limit_arenas(1)
    os.nice(NICENESS)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The server handles Ctrl-C, and lets requests end.
    logging.set_verbosity_error()
    silence_libraries()
    tempfile.tempdir = folder
    with without_collector(own=True):  # Collections would copy the memory that is shared with the fork server.
        for module in LIBRARIES:  # Before memory is limited.
            import_module(module)
    processor: MossVLProcessor = pickle.loads(given)
    limit_memory(memory)
    remembered = MediaMemory(REMEMBERED)
    with suppress(EOFError, OSError):
        while True:
            if not pipe.poll(IDLE_SECONDS):
                trim()
            answer(pipe, processor, remembered)


def _let_parent_end() -> None:
    """Close this process's end of the pipe that keeps its parent, the fork server, alive beyond the server's death."""
    fd = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_alive_fd", None)
    if fd is not None:
        os.close(fd)


def answer(pipe: Connection, processor: MossVLProcessor, remembered: MediaMemory) -> None:
    """Wait for a request, and load or call what it asks for; only the media cache outlives the request."""
    function, arguments = pipe.recv()
    if function is None:
        query, messages, first, digests, threads = arguments
        load = Load(query, messages, processor, remembered, Budget(1 << 62), digests, threads)
        load.run(lambda event: tell(pipe, event), first)
        return
    try:
        send(pipe, (function(processor, *arguments), None))
    except Exception as error:
        send(pipe, (None, sendable(error)))


def nothing(processor: MossVLProcessor) -> None:
    """Do nothing: the reply to this greeting shows that the process is alive."""


def tell(pipe: Connection, event: Event) -> None:
    """Send (event, size): with a size above 0, a frame's patches follow as that many bytes."""
    if isinstance(event, Frame):
        patches = event.patches
        shape = patches.new_empty((len(patches), 0))  # A view would be pickled with all patches.
        send(pipe, (replace(event, patches=shape) if patches.numel() else event, patches.numel()))
        if patches.numel():
            pipe.send_bytes(patches.numpy().tobytes())
        return
    if isinstance(event, Loaded) and event.error is not None:
        event = Loaded(sendable(event.error))
    send(pipe, (event, 0))


def send(pipe: Connection, message: object) -> None:
    """Send a message for `Connection.recv`.

    `Connection.send` would share a tensor's memory by a socket in TMPDIR, whose path may be too long for one.
    """
    pipe.send_bytes(pickle.dumps(message))


def sendable(error: BaseException) -> MossVLError:
    """Turn an error into one that can be pickled."""
    if isinstance(error, MemoryError):
        return MediaError("the media need more memory than is allowed")
    if isinstance(error, MossVLError):
        return error.plain()
    return MossVLError(f"loading the media failed: {type(error).__name__}: {error}")
