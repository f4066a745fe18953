"""Processes that follow grammars: an evil one costs its own process's time and memory, and nobody else's.

Run as a program, this is a template: it loads what grammars need once, and forks a process for whoever sends it one end
of a socket. That process prepares one grammar, and says which tokens may come next. When it has ended, the template
says how. It ends when the other end of its socket is closed, whatever it is doing: if it does not, the template kills
it. It imports nothing of this package, and neither PyTorch nor transformers.
"""

import os
import pickle
import resource
import select
import signal
import socket
import sys
import threading
import warnings
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

LONGEST_REASON = 4000
"""Characters of what is said of a grammar."""
STATUS, ADJUSTMENT = "/proc/self/status", "/proc/self/oom_score_adj"
NICENESS = 5
"""Steps of the engine come first."""


def limit_memory(more: int) -> None:
    """Let this process have so many more bytes than it has (on Linux), and leave no core file when it dies."""
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
    """From now on, what libraries write about what they are given is lost, as it is no line of a server's log.

    Failures of Python, which are ours, still reach stderr.
    """
    warnings.simplefilter("ignore")
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def main(control: socket.socket) -> None:
    """Fork a process for every socket that comes, until nobody can send one any more."""
    from llguidance import LLTokenizer

    given = pickle.load(sys.stdin.buffer)
    tokenizer, unusable = None, ""
    if given is not None:
        try:
            tokenizer = LLTokenizer(given[0], n_vocab=given[1], eos_token=given[2])
        except Exception as error:
            unusable = f"the tokenizer cannot be followed: {error}"
    processes = Processes(control)
    while True:
        for file in processes.news():
            if file != control.fileno():
                continue
            message, sockets, _, _ = socket.recv_fds(control, 1, 1)
            if not message:
                return
            own = socket.socket(fileno=sockets[0])
            process = os.fork()
            if not process:
                processes.leave()
                _serve(own, tokenizer, unusable)
            processes.add(process, own)


class Processes:
    """Those that were forked, and the template's end of what each of them says: so it can say how one has ended."""

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
        self._poll.register(own, 0)  # That the other end is closed is told all the same.

    def news(self) -> list[int]:
        """Wait until something has come; kill what nobody waits for any more, and say of what has ended how."""
        ready = [file for file, _ in self._poll.poll()]
        if self._alarm.fileno() in ready:
            self._alarm.recv(4096)
            self._take_ended()
        for process, own in self._sockets.items():
            if own.fileno() in ready:
                self._poll.unregister(own)
                os.kill(process, signal.SIGKILL)
        return ready

    def _take_ended(self) -> None:
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
    """Read in one thread and compute in another, so that the end of the socket is seen at once. Does not return."""
    try:
        silence_libraries()
        if os.path.exists(ADJUSTMENT):
            with open(ADJUSTMENT, "w") as file:
                file.write("1000")  # Where memory runs out for all, this process goes first.
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
    """Prepare a grammar, then take in tokens of its answers; replies are (answer, mask, reason why there is none).

    Without a tokenizer, the only reply is the reason why the grammar is none, or an empty one.
    """
    from llguidance import LLMatcher

    def tell(number: int, mask: bytes, reason: str) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        own.sendall(pickle.dumps((number, mask, reason.partition("<state>")[0][:LONGEST_REASON])))

    try:
        grammar, answers, seconds, step_seconds = tasks.get()
        signal.setitimer(signal.ITIMER_PROF, seconds)  # Kills the process, unless it is stopped before.
        if tokenizer is None:
            tell(0, b"", unusable or LLMatcher.validate_grammar(grammar) or _unmatched(grammar))
            return
        first = LLMatcher(tokenizer, grammar, log_level=0)
        mask = first.compute_bitmask()
        matchers = [first, *(first.deep_copy() for _ in range(answers - 1))]
        for number in range(answers):
            tell(number, mask, first.get_error())
        while True:
            number, token = tasks.get()
            signal.setitimer(signal.ITIMER_PROF, step_seconds)
            matcher = matchers[number]
            mask = matcher.compute_bitmask() if matcher.consume_token(token) else b""
            tell(number, mask, matcher.get_error())
    except MemoryError:
        os._exit(1)
    except BaseException:  # Also what a panic of the library becomes.
        os._exit(2)


def _unmatched(grammar: str) -> str:
    """Why nothing can match a grammar; an empty text if something can."""
    from llguidance import LLMatcher, LLTokenizer

    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0)
    matcher.compute_bitmask()
    return str(matcher.get_error())


if __name__ == "__main__":
    sys.path[:] = sys.argv[2:]
    main(socket.socket(fileno=int(sys.argv[1])))
