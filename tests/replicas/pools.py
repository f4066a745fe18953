"""Replicas of the golden checkpoint behind one `MossVL`, and what is done to them."""

import gc
import os
import signal

from mossvl import MossVL, SamplingParams
from mossvl.engine.engine import Engine
from mossvl.errors import EngineError

EIGHT = SamplingParams(max_new_tokens=8, ignore_eos=True)
LONG = SamplingParams(max_new_tokens=5000, ignore_eos=True)


class Killer:
    """A medium that kills the process that it is sent to."""

    def __reduce__(self):
        return os._exit, (9,)


class Breaker:
    """A medium that breaks the engine of the process that it is sent to."""

    def __reduce__(self):
        return break_engine, ()


def break_engine():
    (engine,) = [one for one in gc.get_objects() if isinstance(one, Engine)]
    engine.loop.fail(EngineError("its device is lost"))


def start(golden, **options):
    return MossVL(golden / "checkpoint", device="cpu", dtype="float32", max_batch=4, data_parallel_size=2, **options)


def pids(llm):
    return [one.process.pid for one in llm._answering._replicas.all if one.process is not None]


def kill(llm, number):
    if (process := llm._answering._replicas.all[number].process) is not None:
        os.kill(process.pid, signal.SIGKILL)


def one_for_each(llm):
    """A long query on each replica, by its number, which has begun to be answered."""
    handles = {}
    for number in range(2):
        handle = llm.submit(f"Count to {number}.", LONG)
        links = llm._answering._links.values()
        handles |= {link.replica: handle for link in links if handle in [ask.handle for ask in link.asks]}
        next(iter(handle.chunks()))
    assert len(handles) == 2
    return handles
