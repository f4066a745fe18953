"""Processes that follow grammars: an evil one costs its own process's time and memory, and nobody else's.

Run as a program, this is a template: it loads what grammars need once, and forks a process for whoever sends it one end
of a socket. That process prepares one grammar, and says which tokens may come next; it ends with its socket, whatever
it is doing. It imports nothing of this package, and neither PyTorch nor transformers.
"""

import os
import pickle
import resource
import signal
import socket
import sys
import threading
import warnings
from queue import SimpleQueue
from typing import Any

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

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for the processes.
    given = pickle.load(sys.stdin.buffer)
    tokenizer, unusable = None, ""
    if given is not None:
        try:
            tokenizer = LLTokenizer(given[0], n_vocab=given[1], eos_token=given[2])
        except Exception as error:
            unusable = f"the tokenizer cannot be followed: {error}"
    while True:
        message, sockets, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        with socket.socket(fileno=sockets[0]) as own:
            if not os.fork():
                control.close()
                _serve(own, tokenizer, unusable)


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
    """Prepare a grammar, then take in tokens of its answers; replies are (answer, mask, reason why there is none)."""
    from llguidance import LLMatcher

    def tell(number: int, mask: bytes, reason: str) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        own.sendall(pickle.dumps((number, mask, " ".join(reason.partition("<state>")[0].split())[:200])))

    try:
        grammar, answers, seconds, step_seconds = tasks.get()
        signal.setitimer(signal.ITIMER_PROF, seconds)  # Kills the process, unless it is stopped before.
        if tokenizer is None:
            tell(0, b"", unusable or LLMatcher.validate_grammar(grammar))
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
    except BaseException:  # Also what a panic of the library becomes; who waits sees the end of the socket.
        os._exit(1)


if __name__ == "__main__":
    sys.path[:] = sys.argv[2:]
    main(socket.socket(fileno=int(sys.argv[1])))
