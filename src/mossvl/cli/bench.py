"""`mossvl bench`: benchmarks of the engine on this machine."""

import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mossvl.cli.checkpoint import check_checkpoint, prepare
from mossvl.cli.extras import need
from mossvl.cli.options import Checkpoint, EngineFlags, WeightFlags
from mossvl.cli.places import NEW_FILE
from mossvl.errors import OptionError
from mossvl.options.engine import EngineConfig

if TYPE_CHECKING:
    import torch

    from mossvl.bench.measure import Bench, Row
    from mossvl.engine.engine import Engine
    from mossvl.processing.processor import MossVLProcessor


class Part(StrEnum):
    """Part of the benchmark."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    PREFILL = "prefill"
    MEDIA = "media"
    VIDEOS = "videos"
    SERVE = "serve"
    LIVE = "live"
    TUNE = "tune"


def bench(
    *,
    parts: Annotated[
        list[Part],
        typer.Argument(
            metavar="PART…", help="Parts to measure: latency, throughput, prefill, media, videos, serve, live; or tune."
        ),
    ],
    checkpoint: Checkpoint = None,
    random: Annotated[
        bool, typer.Option("--random", help="Random weights of the published size in place of a checkpoint.")
    ] = False,
    weights: WeightFlags,
    memory: Annotated[float | None, typer.Option(help=EngineFlags.flags["memory"].help, show_default=False)] = None,
    max_batch: Annotated[int, typer.Option(min=1, help=EngineFlags.flags["max_batch"].help)] = EngineConfig.max_batch,
    eager: Annotated[bool, typer.Option("--eager", help=EngineFlags.flags["eager"].help)] = False,
    max_token_gap: Annotated[
        float, typer.Option(help=EngineFlags.flags["max_token_gap"].help)
    ] = EngineConfig.max_token_gap,
    clients: Annotated[int, typer.Option(min=1, help="Streaming clients of `serve`.")] = 64,
    processes: Annotated[int, typer.Option(min=1, help="Processes of these clients.")] = 8,
    seconds: Annotated[float, typer.Option(min=1, help="Time that `serve` is measured for.")] = 20,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each figure, which is their median.")] = 5,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write all figures to a file, as JSON."),
        NEW_FILE,
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", help="Write tables to a file instead of to stdout."),
        NEW_FILE,
    ] = None,
) -> None:
    """Measure the engine with prompts of random tokens and pixels, on a GPU; `media` needs neither GPU nor weights,
    and `live` no GPU.

    Times to first token exclude decoding and resizing, which `media` measures, unless a row names another source.
    `serve` measures a server in this process with clients in others, from its first request on, and its engine alone.
    `live` measures sessions that are pushed a frame of 512 × 288 a second: on a GPU up to 128, on a CPU 8.
    `tune` searches how kernels divide their work on this GPU, and keeps the fastest ways for later runs; it takes about
    ten minutes.
    """
    from mossvl.bench import hardware, report

    device = weights.get("device")

    engine: Engine | None = None
    processor: MossVLProcessor | None = None
    if set(parts) - {Part.MEDIA, Part.TUNE}:
        if not random and not checkpoint:
            raise OptionError("give a --checkpoint or --random, for weights to measure with")
        # Pixels are in memory already: the prompts of all requests can load at once.
        config = EngineConfig(
            **weights,
            memory=memory,
            max_batch=max_batch,
            max_token_gap=max_token_gap,
            eager=eager,
            media_workers=max_batch,
        )
        if set(parts) != {Part.LIVE}:
            gpu(device)
        engine, processor = engine_to_measure(None if random else checkpoint, config)
    import torch

    target = torch.device("cpu") if set(parts) <= {Part.MEDIA} else engine.model.device if engine else gpu(device)
    described = hardware.describe(target)
    if target.type == "cpu":
        described["device"] = "CPU"
    ceilings = {} if engine is None or target.type == "cpu" else hardware.ceilings(target)
    results: dict[str, Any] = {"hardware": described, "ceilings": ceilings}
    tables = []
    for part in dict.fromkeys(parts):
        rows = []
        load = Clients(clients, processes, seconds, processor)
        for row in measure(part, engine, ceilings, repeats, target, load):
            print(f"{part}: {row.name}: {report.figure(row.value)} {row.unit} {row.note}", file=sys.stderr, flush=True)
            rows.append(row)
        results[part.value] = rows
        tables.append(report.markdown(part.value.capitalize(), described, ceilings if engine else {}, rows))
    if output is not None:
        report.write(output, results)
    if markdown is not None:
        markdown.write_text("\n".join(tables))
    else:
        print("\n".join(tables))


@dataclass(frozen=True)
class Clients:
    """The load of `serve`."""

    count: int
    processes: int
    seconds: float
    processor: "MossVLProcessor | None"


def engine_to_measure(checkpoint: str | None, config: EngineConfig) -> "tuple[Engine, MossVLProcessor]":
    """Load a checkpoint, or make random weights."""
    prepare()
    from mossvl.bench.prompts import random_weights
    from mossvl.engine.engine import Engine
    from mossvl.loading import load

    weights = {name: getattr(config, name) for name in ("device", "dtype", "quantization", "tensor_parallel_size")}
    if checkpoint:
        model, processor = load(check_checkpoint(checkpoint), **weights)
    else:
        model, processor = random_weights(**weights)
    return Engine(model, config), processor


def gpu(device: str | None) -> "torch.device":
    """The GPU to measure.

    Raises:
        OptionError: there is none.
    """
    from mossvl.loading import resolve_device

    found = resolve_device(device)
    if found.type != "cuda":
        raise OptionError("all but media is measured on a GPU, and there is none here")
    return found


def measure(
    part: Part,
    engine: "Engine | None",
    ceilings: dict[str, float],
    repeats: int,
    target: "torch.device",
    clients: "Clients",
) -> "Iterator[Row]":
    from mossvl.bench.measure import Bench
    from mossvl.bench.media import by_cores, media

    if part is Part.MEDIA:
        return chain(media(repeats), by_cores(repeats))
    if part is Part.TUNE:
        from mossvl.device.executor import has_triton

        if not has_triton():
            raise OptionError("tune searches for kernels of Triton, which is not installed; install triton")
        from mossvl.bench.tune import tune

        return tune(target)
    assert engine is not None
    bench = Bench(engine, ceilings, repeats)
    if part is Part.SERVE:
        return measure_server(bench, clients)
    if part is Part.LIVE:
        return measure_sessions(bench, clients)
    rows: Iterator[Row] = getattr(bench, part.value)()
    return rows


def measure_server(bench: "Bench", clients: Clients) -> "Iterator[Row]":
    """Measure a server that has just started, then its engine alone."""
    need("serve")
    from mossvl.bench.serve import ask, rows
    from mossvl.llm import MossVL
    from mossvl.server.config import ServerConfig
    from mossvl.server.run import beside

    assert clients.processor is not None
    llm = MossVL.of(bench.engine, deepcopy(clients.processor))  # A server sets its own limits on its processor.
    with beside(ServerConfig(port=0, max_queue=1024), llm, "bench") as url:
        seen = ask(url, clients.count, clients.processes, clients.seconds)
    yield from rows(seen, bench.alone(clients.count), clients.count, clients.seconds)


def measure_sessions(bench: "Bench", clients: Clients) -> "Iterator[Row]":
    """Measure live sessions: of few frames and sessions on a CPU."""
    from mossvl.bench.live import ON_CPU, Load, live
    from mossvl.llm import MossVL

    assert clients.processor is not None
    load = ON_CPU if bench.engine.model.device.type == "cpu" else Load()
    bench.engine.warm_up()  # as a server does
    return live(MossVL.of(bench.engine, clients.processor), load)
