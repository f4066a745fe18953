"""What a process may be asked to do in tests; in a module that it can import."""

import os
import signal
import tempfile
import time

import torch

from mossvl.errors import MediaError
from mossvl.sources.decoder import send


def squared(processor, number):
    return number * number


def failing(processor):
    raise MediaError("nothing to see")


def dying(processor, told):
    with open(told, "a") as file:
        file.write(f"{os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGKILL)


def sleeping(processor):
    time.sleep(600)


def writing(processor):
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"a video")
        file.flush()
        time.sleep(600)


def sending(pipe):
    send(pipe, torch.arange(3))


def niceness(processor):
    return os.nice(0)
