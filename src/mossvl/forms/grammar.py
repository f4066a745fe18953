"""Structured output: processes follow answers in a grammar, and compute masks of allowed next tokens.

`languages.py` makes the grammar, in llguidance's syntax, of the form that a user gives.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, finalize

from mossvl.errors import MossVLError, OptionError, ResourceError
from mossvl.forms.languages import with_tokens
from mossvl.forms.reasons import told

MEMORY = 256 << 20
"""Bytes that a query's process may allocate for its grammar and all its answers."""
SECONDS, STEP_SECONDS = 10.0, 2.0
"""CPU time in seconds: to prepare a grammar, and to compute the mask after a token."""
CHECK_SECONDS = 0.5
"""CPU time of `problem_of` in seconds, enough to find most invalid grammars."""
PATIENCE, LONGEST_WAIT = 10.0, 60.0
"""Wall time in seconds, for a busy machine: of `problem_of`, and of any other reply of a process."""

TOO_LONG, FAILED = (str(-signal.SIGPROF),), ("2",)
TOO_MUCH = ("1", *(str(-number) for number in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)))
"""Exit statuses of a process that ran out of CPU time, in which llguidance failed, or that ran out of memory."""
NO_PROCESS = "no process can be started for the form of an answer"
PROGRAM = Path(__file__).with_name("process.py")

Report = Callable[[int, bytes, MossVLError | None], None]
"""Takes the number of an answer and its mask of allowed next tokens; or any number, an empty mask and an error."""


class Template:
    """A process that loads llguidance and a tokenizer once, and forks a process for each query.

    Args:
        given: the tokenizer's JSON, the size of the model's vocabulary and the tokens that end an answer; None to check
            grammars without a tokenizer.
    """

    def __init__(self, given: tuple[str, int, list[int]] | None = None) -> None:
        self._given = given
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._end: Callable[[], object] = lambda: None
        self.process: subprocess.Popen[bytes] | None = None

    def fork(self) -> socket.socket:
        """Fork a process, and return the socket to it; start the template before, if it is not running.

        Raises:
            MossVLError: no process can be started.
        """
        try:
            here, there = socket.socketpair()
        except OSError as error:
            raise MossVLError(f"{NO_PROCESS}: {error}") from error
        with there:
            try:
                with self._lock:
                    try:
                        socket.send_fds(self._started(), [b"."], [there.fileno()])
                    except BrokenPipeError:  # The template was killed: start a new one.
                        self._end()
                        self._control = None
                        socket.send_fds(self._started(), [b"."], [there.fileno()])
            except OSError as error:
                here.close()
                raise MossVLError(f"{NO_PROCESS}: {error}") from error
        return here

    def _started(self) -> socket.socket:
        if self._control is None:
            here, there = socket.socketpair()
            command = [sys.executable, str(PROGRAM), str(there.fileno()), *sys.path]
            with there:  # A new session keeps Ctrl-C from the process, which ends with its socket.
                self.process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, pass_fds=[there.fileno()], start_new_session=True
                )
            self._end = finalize(self, _end, self.process, here, os.getpid())
            assert self.process.stdin is not None
            with self.process.stdin:
                pickle.dump(self._given, self.process.stdin)
            self._control = here
        return self._control


def _end(process: "subprocess.Popen[bytes]", control: socket.socket, pid: int) -> None:
    control.close()
    if os.getpid() == pid:
        process.kill()
        process.wait()


class Matcher:
    """The state of one answer in its grammar.

    Attributes:
        mask: allowed next tokens, one bit per token, least significant bit first; empty until known.
    """

    def __init__(self, follower: "Follower", number: int) -> None:
        self._follower, self._number = follower, number
        self.mask = b""

    def accept(self, token: int) -> None:
        """Advance by a token that was drawn; the mask is empty until the process replies."""
        self.mask = b""
        self._follower.tell(self._number, token)


class Follower:
    """Follows a query's answers in a process, and reports their masks from a thread.

    Attributes:
        matchers: one for each answer.
    """

    def __init__(self, template: Callable[[], Template], grammar: str, answers: int) -> None:
        self.matchers = [Matcher(self, number) for number in range(answers)]
        self._template, self._grammar = template, grammar
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._stopped = False
        self._asked: dict[int, float] = {}
        """Answers for which the process owes a reply, with the time of the request (`time.monotonic`)."""

    def start(self, report: Report) -> None:
        """Start a thread, which starts the process and calls `report`; an error is reported at most once, and last."""
        self._asked = dict.fromkeys(range(len(self.matchers)), time.monotonic())
        threading.Thread(target=self._run, args=(report,), name="mossvl-grammar", daemon=True).start()

    def stop(self) -> None:
        """End the process, when the query has ended."""
        with self._lock:
            self._stopped = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def tell(self, number: int, token: int) -> None:
        """Send the process the next token of an answer."""
        assert self._socket is not None
        self._asked[number] = time.monotonic()
        with suppress(OSError):  # If the process has ended, the thread reports it.
            self._socket.sendall(pickle.dumps((number, token)))

    def overdue(self, now: float) -> ResourceError | None:
        """An error if the process owes a reply for more than `LONGEST_WAIT`; `now` in seconds of `time.monotonic`."""
        if not self._asked or now - min(list(self._asked.values()), default=now) < LONGEST_WAIT:
            return None
        return ResourceError(
            f"the process that follows the form of the answer has said nothing for {LONGEST_WAIT:g} seconds; this "
            "machine may be overloaded, ask again later"
        )

    def _run(self, report: Report) -> None:
        try:
            with self._template().fork() as own:
                with self._lock:
                    if self._stopped:
                        return
                    self._socket = own
                prepared = False
                for number, mask, reason in ask(own, self._grammar, len(self.matchers), SECONDS):
                    if number is None:
                        raise end_of_process(reason, prepared)
                    if reason:
                        raise unusable(told(reason))
                    self._asked.pop(number, None)
                    report(number, mask, None)
                    prepared = True
        except Exception as error:
            if not isinstance(error, MossVLError):
                error = MossVLError(f"the form of the answer cannot be followed: {type(error).__name__}: {error}")
            report(0, b"", error)


def ask(own: socket.socket, grammar: str, answers: int, seconds: float) -> Iterator[tuple[int | None, bytes, str]]:
    """Send a process a grammar, and yield its replies.

    Yields:
        (number of an answer, mask, reason why the answer cannot continue, or ""); last, (None, b"", exit status of the
        process, or "" if unknown).
    """
    with suppress(EOFError, OSError, pickle.UnpicklingError), own.makefile("rb") as replies:
        own.sendall(pickle.dumps((MEMORY, grammar, answers, seconds, STEP_SECONDS)))
        while True:
            yield pickle.load(replies)
    yield None, b"", ""


def end_of_process(status: str, prepared: bool) -> MossVLError:
    """The error of an answer whose process has ended; `prepared`: the process had replied before."""
    seconds, what = (STEP_SECONDS, "what may follow a token") if prepared else (SECONDS, "the form")
    if status in TOO_LONG:
        return unusable(f"to find out {what} takes more than {seconds:g} seconds of a core's time; give a simpler form")
    if status in TOO_MUCH:
        return unusable(f"to find out {what} takes more than {MEMORY >> 20} MiB of memory; give a simpler form")
    if status in FAILED:
        return unusable(f"to find out {what} has failed; give a simpler form")
    return ResourceError(
        f"the process that follows the form of the answer was ended from outside"
        f"{f' (status {status})' if status else ''}, as happens if memory runs out; ask again"
    )


def unusable(reason: str) -> OptionError:
    return OptionError(f"the form of the answer cannot be used: {reason}")


class Grammars:
    """Makes followers. Each tokenizer has one template, whose start takes about a second for a large vocabulary.

    Args:
        vocab_size: of the model.
        ends: ids of the tokens that end an answer.
    """

    def __init__(self, vocab_size: int, ends: Collection[int]) -> None:
        self._vocab_size, self._ends = vocab_size, sorted(ends)
        self._templates: WeakKeyDictionary[Any, Template] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def follower(self, grammar: str, tokenizer: Any, answers: int) -> Follower:
        added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        return Follower(lambda: self._template(tokenizer), with_tokens(grammar, added), answers)

    def _template(self, tokenizer: Any) -> Template:
        with self._lock:
            if tokenizer not in self._templates:
                plain = copy(tokenizer.backend_tokenizer)
                plain.no_padding()
                plain.no_truncation()
                self._templates[tokenizer] = Template((plain.to_str(), self._vocab_size, self._ends))
            return self._templates[tokenizer]


# --- without a tokenizer ---------------------------------------------------------------------------------------------

_checkers = [Template()]
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _checkers.__setitem__(0, Template()))


@lru_cache(maxsize=256)
def problem_of(grammar: str) -> str:
    """Why a grammar is invalid, or matches no text; "" if it is usable, or if the check takes too long.

    Raises:
        MossVLError: no process can be started.
    """
    with _checkers[0].fork() as own:
        own.settimeout(PATIENCE)
        number, _, reason = next(ask(own, grammar, 1, CHECK_SECONDS))
        return "" if number is None else told(reason)
