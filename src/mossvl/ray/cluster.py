"""A Ray cluster: joining it, what it has, what an actor takes of it, and what its errors say."""

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from mossvl import errors
from mossvl.errors import EngineError, MossVLError, OptionError, first_line
from mossvl.options.engine import EngineConfig
from mossvl.ray.config import ProcessorConfig

STDERR = 2
PATIENCE = 5.0
"""Seconds that a cluster may take to answer."""
HOST_PORT = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d{1,5}")
OURS = re.compile(r"^mossvl\.errors\.(\w+): (.+)$", re.MULTILINE)
"""An error of this package, as a traceback of another process has it."""


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Join a cluster, quietly; leave it in the end, and end it if it was started for this.

    Args:
        address: HOST:PORT, "auto" for the cluster of this machine, "local" for one of its own, or "" for that of
            RAY_ADDRESS, the one of this machine or else one of its own.

    Raises:
        OptionError: there is no cluster, or it is of another version.
    """
    import ray
    import ray.data  # It sets up its log when it is imported.

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    named = address or os.environ.get("RAY_ADDRESS", "")
    if named not in ("", "auto", "local"):
        check_there(named)
    try:
        with unheard():  # It says what RAY_BACKEND_LOG_LEVEL is.
            ray.init(named or None, include_dashboard=False if named == "local" else None, **QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise OptionError(f"no Ray cluster can be joined at {named or 'this machine'} ({first_line(error)})") from error
    try:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        ray.data.DataContext.get_current().enable_progress_bars = False
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # Ray prints errors of tasks to stdout.
            yield
    finally:
        ray.shutdown()


@contextmanager
def unheard() -> Iterator[None]:
    """Send nowhere what this process writes to its stderr, also in C++."""
    sys.stderr.flush()
    kept = os.dup(STDERR)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), STDERR)
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)


QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}


def check_there(address: str) -> None:
    """Check that something speaks Ray's protocol at an address; Ray itself waits for minutes.

    Raises:
        OptionError: nothing does, or the address is none.
    """
    import grpc

    if not HOST_PORT.fullmatch(address):
        raise OptionError(f"{address!r:.200} is no address of a Ray cluster; expected HOST:PORT, auto or local")
    if os.environ.get("RAY_USE_TLS", "0") == "1":
        return
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(PATIENCE)
        except grpc.FutureTimeoutError:
            raise OptionError(
                f"no Ray cluster answers at {address}; `ray start --head` begins one, `ray status` shows it"
            ) from None


@contextmanager
def errors_told() -> Iterator[None]:
    """Turn what Ray raises into the error of this package that caused it, or into an EngineError of one line."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        found = OURS.findall(str(error))
        if found:
            name, message = found[-1]
            kind = getattr(errors, name, MossVLError)
            raise kind(message) from error
        raise EngineError(f"the Ray cluster has failed: {first_line(error)}") from error


def engines(config: ProcessorConfig) -> ProcessorConfig:
    """Return a configuration with as many engines as the cluster has room for: one for each rank's GPUs, or, where
    these compute on CPUs, one for each node."""
    import ray

    ranks = config.engine.tensor_parallel_size
    if not resources_of(config).get("num_gpus"):
        cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        able = [count for count in cpus if count > ranks]
        shared = max(1, (min(able, default=1) - 1) // ranks)  # One CPU of a node is left for Ray's own tasks.
        return replace(config, num_cpus=shared, concurrency=(1, max(1, len(able))))
    room = int(ray.cluster_resources().get("GPU", 0)) // ranks
    return replace(config, concurrency=(1, max(1, room)))


def actor_resources(engine: EngineConfig, num_cpus: int, accelerator_type: str | None) -> dict[str, Any]:
    """Return what an engine's process takes, as arguments of Ray's: GPUs, or CPUs where it computes on these.

    Where no device is given, engines take GPUs if a node has one, or while no cluster is joined, if this machine has.

    Args:
        num_cpus: of each rank that computes on CPUs.

    Raises:
        OptionError: no node has so many. A cluster that is to grow is asked for nodes of an `accelerator_type`, and is
            not checked.
    """
    import ray

    wanted = engine.tensor_parallel_size
    known = ray.is_initialized()  # `serve run` builds an application before it joins or begins a cluster.
    gpus = most_of("GPU") if known else gpus_here()
    device = engine.device or ("cuda" if gpus or accelerator_type else "cpu")
    if device.startswith("cpu"):
        wanted *= num_cpus
        if known:
            check_there_are(wanted, most_of("CPU"), "CPUs", "num_cpus")
        return {"num_cpus": wanted}
    if known and accelerator_type is None:
        check_there_are(wanted, gpus, "GPUs", "tensor_parallel_size")
    return {"num_gpus": wanted}


def gpus_here() -> int:
    """GPUs of this machine."""
    import torch

    return torch.cuda.device_count()


def resources_of(config: ProcessorConfig) -> dict[str, Any]:
    """What an actor of a processor takes; see `actor_resources`."""
    return actor_resources(config.engine, config.num_cpus, config.accelerator_type)


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
