"""A process's place among the ranks of a model: its share, its collectives and, on rank 0, the other processes."""

import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn
from weakref import finalize

import torch
from torch import Tensor

from mossvl.errors import CheckpointError, InputError, OptionError
from mossvl.parallel.collectives import Collectives, listening
from mossvl.parallel.processes import RankProcesses
from mossvl.parallel.share import Share


class Ranks(Collectives):
    """The group, as a rank sees it: what executors need of it."""

    def whole_columns(self, part: Tensor) -> Tensor | None:
        """The columns of all ranks side by side, (rows, columns); None on others than rank 0."""
        parts = self.gather(part)
        return None if parts is None else torch.cat(parts, dim=-1)

    def check(self) -> None:
        """Raise the failure of the group, if it has ended; other ranks than 0 end with it."""

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise OptionError("a model whose layers are cut among several processes cannot be copied")

    def __reduce__(self) -> NoReturn:
        raise OptionError("a model whose layers are cut among several processes cannot be pickled")


class LeadingRanks(Ranks):
    """Rank 0's: has the other ranks carry out what it carries out itself.

    Args:
        devices: one for each rank.
        make: a function of a module, with its arguments: called in each of the other processes with its `Ranks`.

    Raises:
        EngineError: a process cannot be started.
    """

    def __init__(self, devices: Sequence[torch.device], make: Callable[..., object], *given: Any) -> None:
        size = len(devices)
        super().__init__(Share(0, size), devices[0])
        self._listener, self._port = listening()
        self.threads = max(1, torch.get_num_threads() // size) if self.device.type == "cpu" else 0
        messages = [
            pickle.dumps((Share(rank, size), devices[rank], self.threads, self._port, (make, given)))
            for rank in range(1, size)
        ]
        self.lock = threading.RLock()
        self.dropped: deque[int] = deque()
        self._numbers = 0
        self.processes = RankProcesses(messages)
        self.close = finalize(self, self.processes.end)

    def meet(self) -> None:
        """Wait until the other ranks have their parts, and join them.

        Raises:
            MossVLError: one has failed.
        """
        with self._listener:
            self.processes.wait_until_ready()
            self.processes.unless_ended(lambda: self.join(self._port, self._listener))
        self.processes.abort = self.abort

    def next_number(self) -> int:
        """A number for an executor, by which messages name it."""
        self._numbers += 1
        return self._numbers

    @contextmanager
    def telling(self, number: int, name: str, *given: Any) -> Iterator[None]:
        """Have the other ranks call a method of an executor, while this one does the same.

        Raises:
            EngineError: the group has ended; or this rank has failed where others wait for it, which ends the group.
        """
        with self.lock:
            while self.dropped:  # Not by who drops an executor: a garbage collection may come while a message is sent.
                self.processes.tell(pickle.dumps((self.dropped.popleft(), "drop", ())))
            self.check()
            try:
                with self.processes.waits.one():
                    self.processes.tell(pickle.dumps((number, name, given)))
                    yield
            except (InputError, CheckpointError):  # Of settings, which every rank refuses.
                raise
            except BaseException as error:
                raise self.processes.verdict(error) from (None if self.processes.caused(error) else error)

    def check(self) -> None:
        self.processes.check()
