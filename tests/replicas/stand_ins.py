"""Targets of replica processes that are ready at once, and what tests see of them."""

import atexit
import os
import queue
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

from mossvl.errors import CheckpointError
from mossvl.replicas.living import tell_ready
from mossvl.replicas.processes import Replicas
from mossvl.replicas.replica import Patience
from mossvl.replicas.shares import Share

PATIENCE = 180
"""Seconds that anything may take that should not take long."""
SOON = Patience(first=0.01, most=0.02, tries=3, stop=5.0)


def echo(pipe, number, *given):
    """Tell what was given, then send back what comes; end at SIGTERM, or at the end of the pipe."""
    tell_ready(pipe, given)
    while True:
        try:
            pipe.send(pipe.recv())
        except EOFError:
            return


def environment(pipe, number):
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    tell_ready(pipe, {name: os.environ.get(name) for name in names} | {"torch": "torch" in sys.modules})
    pipe.recv()


def dying(pipe, number):
    os._exit(7)


def fleeting(pipe, number):
    tell_ready(pipe)
    os._exit(7)


def refusing(pipe, number):
    raise CheckpointError("no such checkpoint")


def deaf(pipe, number):
    """It does not end at SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell_ready(pipe)
    while True:
        time.sleep(PATIENCE)


def silent(pipe, number):
    time.sleep(PATIENCE)


class Heavy:
    """An argument that takes long to read, as one does whose module takes long to import."""

    def __reduce__(self):
        return time.sleep, (PATIENCE,)


def stopped(pipe, number):
    """It is as a process that hangs within a call: no thread of it goes on."""
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(PATIENCE)


def refusing_server(pipe, number, config, folder):
    """A server whose model cannot be loaded, and that is told to end once it ends."""
    from mossvl.server.front.replica import serve_replica

    atexit.register(os.kill, os.getpid(), signal.SIGTERM)
    serve_replica(pipe, number, config, load_nothing, "none", folder)


def load_nothing():
    raise CheckpointError("no such checkpoint")


def parent(pipe, number):
    """It has a child that does not care whether it lives."""
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({PATIENCE})"])
    tell_ready(pipe, child.pid)
    pipe.recv()


class Seen:
    """What is told of replicas, as (what, number, with it). Pipes stay open: a replica ends with its own."""

    def __init__(self):
        self.happened, self._pipes = queue.Queue(), []

    def ready(self, replica, pipe):
        self._pipes.append(pipe)
        self.happened.put(("ready", replica.number, pipe))

    def ended(self, replica, reason):
        self.happened.put(("ended", replica.number, reason))

    def given_up(self, replica, error):
        self.happened.put(("given up", replica.number, error))

    def next(self):
        return self.happened.get(timeout=PATIENCE)


@contextmanager
def running(target, *arguments, count=1, patience=SOON, share=None):
    """Replicas of a target, and what is seen of them; ended with the context."""
    seen = Seen()
    replicas = Replicas(target, arguments, [share or Share()] * count, seen, patience)
    replicas.start()
    try:
        yield replicas, seen
    finally:
        replicas.close()


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def waited(condition):
    """What a condition gives once it is true."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {PATIENCE} seconds")
