"""A Ray cluster of this machine for each module: on loopback, small, and gone with all its processes at the end."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from descendants import descendants, left

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "disabled"  # Otherwise, Ray writes a token into the home folder.
os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
logging.getLogger("ray.data").setLevel(logging.WARNING)

CPUS = 4
STORE = 100 << 20
"""Bytes of the object store."""


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster that this process has joined."""
    import ray

    before = descendants()
    context = ray.init(
        num_cpus=CPUS,
        include_dashboard=False,
        object_store_memory=STORE,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    begun = descendants().keys() - before.keys()
    try:
        yield context.address_info["gcs_address"]
    finally:
        begun = begun.union(*(descendants(pid) for pid in begun))
        ray.shutdown()
    assert left(begun) == []


@pytest.fixture(scope="session")
def checkpoint(golden: Path) -> str:
    return str(golden / "checkpoint")


@pytest.fixture(scope="session")
def media(golden: Path) -> Path:
    return golden / "media"
