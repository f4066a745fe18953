"""What a Ray cluster has, and what an actor takes of it."""

from typing import Any

from mossvl.errors import OptionError
from mossvl.ray.config import ProcessorConfig


def actor_resources(config: ProcessorConfig) -> dict[str, Any]:
    """Return what an actor of a processor takes, as arguments of Ray's: GPUs, or CPUs where it computes on these.

    Where no device is given, actors take GPUs if a node has one.

    Raises:
        OptionError: no node has so many. A cluster that is to grow is asked for nodes of an `accelerator_type`, and is
            not checked.
    """
    gpus = most_of("GPU")
    device = config.engine.device or ("cuda" if gpus or config.accelerator_type else "cpu")
    wanted = config.ranks
    if device.startswith("cpu"):
        wanted *= config.num_cpus
        check_there_are(wanted, most_of("CPU"), "CPUs", "num_cpus")
        return {"num_cpus": wanted}
    if config.accelerator_type is None:
        check_there_are(wanted, gpus, "GPUs", "tensor_parallel_size")
    return {"num_gpus": wanted}


def most_of(resource: str) -> int:
    """How many of a resource the largest node has; 0 without one."""
    import ray

    return int(max((node["Resources"].get(resource, 0) for node in ray.nodes() if node["Alive"]), default=0))


def check_there_are(wanted: int, found: int, name: str, option: str) -> None:
    """Refuse an actor that no node can run.

    Raises:
        OptionError: it takes more than the largest node has.
    """
    if wanted > found:
        raise OptionError(
            f"an actor needs {wanted} {name} of one node, but the largest node of this Ray cluster has {found}; lower "
            f"{option}, or add such a node"
        )
