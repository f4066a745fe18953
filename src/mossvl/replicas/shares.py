"""What of a machine each replica may use: its GPUs, or its threads."""

import os
from dataclasses import dataclass

from mossvl.cores import cores
from mossvl.errors import OptionError


@dataclass(frozen=True)
class Share:
    """A replica's share of the machine.

    Attributes:
        gpus: as `CUDA_VISIBLE_DEVICES` names them; None for a replica on a CPU.
        threads: that it computes with; None for as many as PyTorch takes by itself.
    """

    gpus: tuple[str, ...] | None = None
    threads: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Variables that bind a process to the share, if they are set before it imports anything."""
        gpus = {} if self.gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}
        threads = {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}
        return gpus | threads


def shares(replicas: int, ranks: int = 1, device: str | None = None) -> list[Share]:
    """Divide this machine among replicas; one alone has what this process has.

    Args:
        ranks: GPUs of each replica.
        device: as in `mossvl.load`.

    Raises:
        OptionError: there are fewer GPUs, or `device` is one of them.
    """
    if replicas == 1:
        return [Share()]
    kind, _, index = (device or "").partition(":")
    if kind in ("", "cuda"):
        found = gpus()
        if found or kind:
            return _of_gpus(found, replicas, ranks, index)
    threads = max(1, cores() // replicas)
    return [Share(threads=threads)] * replicas


def gpus() -> list[str]:
    """Return the GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    count = torch.cuda.device_count()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = [str(one) for one in range(count)] if listed is None else [one.strip() for one in listed.split(",")]
    return named[:count]


def _of_gpus(found: list[str], replicas: int, ranks: int, index: str) -> list[Share]:
    if index:
        raise OptionError(
            f"{{device=}} is one GPU, and {replicas} replicas of {ranks} each need {replicas * ranks}; give 'cuda', "
            "and set CUDA_VISIBLE_DEVICES to those that may be used",
            given={"device": f"cuda:{index}"},
        )
    if replicas * ranks > len(found):
        if most := len(found) // ranks:
            advice = f"give at most {most}"
        else:
            advice = "{tensor_parallel_size=} is more than that" if found else "give {device=}"
        raise OptionError(
            f"{{data_parallel_size=}} needs {replicas * ranks} GPUs, {ranks} for each replica, and there are "
            f"{len(found)}; {advice}",
            given={"data_parallel_size": replicas, "tensor_parallel_size": ranks, "device": "cpu"},
        )
    return [Share(tuple(found[ranks * one : ranks * (one + 1)])) for one in range(replicas)]
