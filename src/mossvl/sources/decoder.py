"""What a process that loads media runs: one request after the other, until its pipe is closed."""

import pickle
import signal
import tempfile
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from multiprocessing.connection import Connection

import torch
from transformers.utils import logging

from mossvl.errors import MediaError, MossVLError
from mossvl.forms.process import limit_memory, silence_libraries
from mossvl.malloc import limit_arenas, trim
from mossvl.processing.processor import MossVLProcessor
from mossvl.sources.files import Load
from mossvl.sources.memory import Budget, MediaMemory
from mossvl.sources.source import Event, Frame, Loaded

REMEMBERED = 256
"""Clips whose frames' digests a process remembers."""
IDLE_SECONDS = 1.0
"""After which a process that has nothing to do gives back the memory of what it has done."""
LIBRARIES = ("av", "av.subtitles.stream")
"""What would be loaded with the first file."""


def serve(pipe: Connection, given: bytes, memory: int, folder: str) -> None:
    """Load for one request after the other, until the pipe is closed."""
    limit_arenas(1)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which lets requests end.
    logging.set_verbosity_error()
    silence_libraries()
    tempfile.tempdir = folder
    for module in LIBRARIES:  # now, while there is memory to load them into
        import_module(module)
    processor: MossVLProcessor = pickle.loads(given)
    limit_memory(memory)
    remembered = MediaMemory(REMEMBERED)
    with suppress(EOFError, OSError):
        while True:
            if not pipe.poll(IDLE_SECONDS):
                trim()
            answer(pipe, processor, remembered)


def answer(pipe: Connection, processor: MossVLProcessor, remembered: MediaMemory) -> None:
    """Wait for a request, and do what it asks; nothing of it is kept but what is remembered of files."""
    function, arguments = pipe.recv()
    if function is None:
        query, messages, first, digests = arguments
        load = Load(query, messages, processor, remembered, Budget(1 << 62), digests)
        load.run(lambda event: tell(pipe, event), first)
        return
    try:
        pipe.send((function(processor, *arguments), None))
    except Exception as error:
        pipe.send((None, sendable(error)))


def nothing(processor: MossVLProcessor) -> None:
    """What a process is asked to see whether it is there."""


def tell(pipe: Connection, event: Event) -> None:
    """Send an event; a frame's pixels follow by themselves."""
    if isinstance(event, Frame):
        patches = event.patches
        pipe.send((replace(event, patches=patches[:, :0]) if patches.numel() else event, patches.numel()))
        if patches.numel():
            pipe.send_bytes(patches.numpy().tobytes())
        return
    if isinstance(event, Loaded) and event.error is not None:
        event = Loaded(sendable(event.error))
    pipe.send((event, 0))


def sendable(error: BaseException) -> MossVLError:
    """An error that another process can read."""
    if isinstance(error, MemoryError):
        return MediaError("the media need more memory than is allowed")
    if isinstance(error, MossVLError):
        return error.plain()
    return MossVLError(f"loading the media failed: {type(error).__name__}: {error}")
