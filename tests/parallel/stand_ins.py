"""What other ranks do in tests, in place of making their part of a model and following steps."""

import os
import signal
import time

import torch
from torch.distributed import TCPStore

from mossvl.parallel.collectives import LOOPBACK


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def dying(ranks, stage):
    """A rank that is killed at a stage of joining the others."""

    def meet_and_die(port):
        TCPStore(LOOPBACK, port, 2, False, wait_for_workers=False)
        die()

    match stage:
        case "making":
            die()
        case "ready":
            ranks.join = die
        case "at the store":
            ranks.join = meet_and_die
        case "in the group":
            ranks.least = die
    return die


def hanging(ranks):
    """A rank whose main thread hangs in its first step, while its other threads go on."""
    return lambda *message: time.sleep(3600)


def without_memory(ranks):
    def carry_out(*message):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    return carry_out
