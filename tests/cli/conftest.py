"""Commands run in this process, on a model that is loaded once; a few tests start real processes."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import mossvl.loading
from mossvl.cli.main import commands


@pytest.fixture(scope="session")
def cached_load() -> Callable[..., Any]:
    return functools.cache(mossvl.loading.load)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, cached_load: Callable[..., Any]) -> Callable[..., Any]:
    """`mossvl` with these arguments → its result: `exit_code`, `stdout`, `stderr`."""
    monkeypatch.setattr(mossvl.loading, "load", cached_load)
    monkeypatch.delenv("MOSSVL_CHECKPOINT", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object, input: str | bytes | None = None, env: dict[str, str] | None = None) -> Any:
        result = CliRunner().invoke(commands, [str(argument) for argument in arguments], input=input, env=env)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def run_of(checkpoint: Path, tmp_path: Path) -> Callable[..., list[Any]]:
    """Queries and a batch size → the arguments of `mossvl run`, but for the output."""

    def arguments(queries: list[dict[str, Any]], batch_size: int) -> list[Any]:
        path = tmp_path / "queries.jsonl"
        path.write_text("".join(json.dumps(query) + "\n" for query in queries))
        return ["run", path, "-c", checkpoint, "--batch-size", batch_size, "--device", "cpu"]

    return arguments


@pytest.fixture
def start() -> Any:
    """Starts `python -m mossvl` with these arguments; what is still running at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object, **environment: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-m", "mossvl", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def checkpoint(golden: Path) -> Path:
    return golden / "checkpoint"


@pytest.fixture(scope="session")
def media(golden: Path) -> Path:
    return golden / "media"
