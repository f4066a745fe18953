"""Processes that follow grammars: a hostile grammar costs only its own process's time and memory.

Run as a program, this module is a template: it loads llguidance and a tokenizer once, and forks a process for each
socket that it is sent. The process prepares one grammar, and computes masks of allowed next tokens. It ends when the
other end of its socket is closed; if it is busy, the template kills it. After its end, the template sends its exit
status. The module imports nothing of this package but the file of one function, and neither PyTorch nor transformers.
"""

import os
import pickle
import resource
import runpy
import select
import signal
import socket
import sys
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

LONGEST_REASON = 4000
"""Most characters of a reason why a grammar is refused."""
STATUS, OOM_SCORE = "/proc/self/status", "/proc/self/oom_score_adj"
ORPHANS = Path(__file__).parents[1] / "orphans.py"
"""The file of the function that has stopped processes end when what started them is killed."""
NICENESS = 5
"""Lowers the priority of a process below that of the engine's steps."""


def limit_memory(more: int) -> None:
    """Limit this process to `more` bytes of data beside those that it has (on Linux), and disable core files."""
    if os.path.exists(STATUS):
        resource.setrlimit(resource.RLIMIT_DATA, (used() + more,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def used() -> int:
    """Bytes of data that this process has, as RLIMIT_DATA counts them."""
    with open(STATUS) as lines:
        for line in lines:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0


def silence_libraries() -> None:
    """Discard what libraries print and warn about their input, as it does not belong into a server's log.

    Tracebacks of Python still reach stderr.
    """
    warnings.simplefilter("ignore")
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def main(control: socket.socket) -> None:
    """Fork a process for every socket that arrives at `control`, until the other end of `control` is closed."""
    from llguidance import LLTokenizer

    continue_when_orphaned = runpy.run_path(str(ORPHANS))["continue_when_orphaned"]
    continue_when_orphaned()
    given = pickle.load(sys.stdin.buffer)
    tokenizer, unusable = None, ""
    if given is not None:
        try:
            tokenizer = LLTokenizer(given[0], n_vocab=given[1], eos_token=given[2])
        except Exception as error:
            unusable = f"the tokenizer is not supported: {error}"
    processes = Processes(control)
    while True:
        for file in processes.wait():
            if file != control.fileno():
                continue
            message, sockets, _, _ = socket.recv_fds(control, 1, 1)
            if not message:
                return
            own = socket.socket(fileno=sockets[0])
            process = os.fork()
            if not process:
                continue_when_orphaned()
                processes.leave()
                _serve(own, tokenizer, unusable)
            processes.add(process, own)


class Processes:
    """The forked processes, each with a duplicate of its socket, over which the template sends its exit status."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._sockets: dict[int, socket.socket] = {}
        self._alarm, ended = socket.socketpair()
        ended.setblocking(False)
        self._ended = ended
        signal.set_wakeup_fd(ended.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._poll = select.poll()
        for one in (control, self._alarm):
            self._poll.register(one, select.POLLIN)

    def add(self, process: int, own: socket.socket) -> None:
        self._sockets[process] = own
        self._poll.register(own, 0)  # Poll reports a closed other end without an event mask.

    def wait(self) -> list[int]:
        """Wait for events; kill processes whose socket is closed, and reap those that have ended.

        Returns:
            file descriptors with events.
        """
        ready = [file for file, _ in self._poll.poll()]
        if self._alarm.fileno() in ready:
            self._alarm.recv(4096)
            self._reap()
        for process, own in self._sockets.items():
            if own.fileno() in ready:
                self._poll.unregister(own)
                os.kill(process, signal.SIGKILL)
        return ready

    def _reap(self) -> None:
        """Send the exit statuses of processes that have ended."""
        with suppress(ChildProcessError):
            while True:
                process, status = os.waitpid(-1, os.WNOHANG)
                if not process:
                    return
                with self._sockets.pop(process) as own, suppress(OSError, KeyError):
                    self._poll.unregister(own)
                    own.send(pickle.dumps((None, b"", str(os.waitstatus_to_exitcode(status)))), socket.MSG_DONTWAIT)

    def leave(self) -> None:
        """In a forked process: close what belongs to the template and to other processes."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for one in (self._control, self._alarm, self._ended, *self._sockets.values()):
            one.close()


def _serve(own: socket.socket, tokenizer: Any, unusable: str) -> None:
    """Read the socket in this thread and compute in another, so that a closed socket is seen at once; never return."""
    try:
        silence_libraries()
        if os.path.exists(OOM_SCORE):
            with open(OOM_SCORE, "w") as file:
                file.write("1000")  # The OOM killer takes this process first.
        os.nice(NICENESS)
        tasks: SimpleQueue[Any] = SimpleQueue()
        messages = own.makefile("rb")
        memory, *first = pickle.load(messages)
        threading.Thread(target=_work, args=(own, tokenizer, unusable, tasks), daemon=True).start()
        limit_memory(memory)
        tasks.put(first)
        while True:
            tasks.put(pickle.load(messages))
    except (EOFError, OSError, pickle.UnpicklingError):
        pass
    finally:
        os._exit(0)


def _work(own: socket.socket, tokenizer: Any, unusable: str, tasks: "SimpleQueue[Any]") -> None:
    """Prepare a grammar, then consume tokens of its answers; replies are (number of the answer, mask, reason or "").

    Without a tokenizer, the only reply has the reason why the grammar is invalid, or "".
    """
    from llguidance import LLMatcher

    def reply(number: int, mask: bytes, reason: str) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        own.sendall(pickle.dumps((number, mask, reason.partition("<state>")[0][:LONGEST_REASON])))

    try:
        grammar, answers, seconds, step_seconds = tasks.get()
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF kills the process, unless `reply` stops the timer.
        if tokenizer is None:
            reply(0, b"", unusable or LLMatcher.validate_grammar(grammar) or _unmatched(grammar))
            return
        first = LLMatcher(tokenizer, grammar, log_level=0)
        mask = first.compute_bitmask()
        matchers = [first, *(first.deep_copy() for _ in range(answers - 1))]
        for number in range(answers):
            reply(number, mask, first.get_error())
        while True:
            number, token = tasks.get()
            signal.setitimer(signal.ITIMER_PROF, step_seconds)
            matcher = matchers[number]
            mask = matcher.compute_bitmask() if matcher.consume_token(token) else b""
            reply(number, mask, matcher.get_error())
    except MemoryError:
        os._exit(1)
    except BaseException:  # A panic of llguidance raises a BaseException.
        os._exit(2)


def _unmatched(grammar: str) -> str:
    """Why a grammar matches no text; "" if it matches one."""
    from llguidance import LLMatcher, LLTokenizer

    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0)
    matcher.compute_bitmask()
    return str(matcher.get_error())


if __name__ == "__main__":
    sys.path[:] = sys.argv[2:]
    main(socket.socket(fileno=int(sys.argv[1])))
