"""`mossvl doctor`: what this machine has, what would be used, and what is missing."""

import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from mossvl.cli.memory import readable_bytes
from mossvl.cores import cores
from mossvl.errors import first_line

State = Literal["ok", "missing", "wrong"]
MARKS: dict[State, str] = {"ok": "✓", "missing": "–", "wrong": "✗"}
WITHOUT: dict[str, str] = {
    "serve": "mossvl serve",
    "train": "mossvl train",
    "tables": "Parquet files",
    "heif": "HEIC pictures",
    "ray": "Ray Data and Ray Serve",
}
"""What an extra is for."""
CPU_WEIGHT_BYTES = {"float32": 2.0, "bfloat16": 1.0, "int8": 0.55}
"""Weights on a CPU, relative to those in bfloat16."""
COMMAND = "command"
"""The finding that stands below the table, in a line that can be copied."""
PUBLISHED = "OpenMOSS-Team/MOSS-VL-Instruct-0708"
DOWNLOAD_BYTES = 22.7e9
"""Bytes of its files."""


@dataclass(frozen=True)
class Finding:
    """A line of the table.

    Attributes:
        group, name: what was looked at.
        found: what there is.
        state: "ok"; "missing": something optional; "wrong": something without which the command fails.
        note: what it means, or what to do.
    """

    group: str
    name: str
    found: str
    state: State = "ok"
    note: str = ""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False) -> None:
    """Show what this machine has, what would be used, and what is missing.

    The exit code is 1 if something is wrong: a package is missing or of a version that is not supported, or a GPU or
    FFmpeg cannot be used.
    """
    findings = [finding for examine in (software, hardware, sizes, extras, hub) for finding in checked(examine)]
    if as_json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings]}, ensure_ascii=False))
    else:
        show(findings)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)


def checked(examine: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield findings; an error while looking is one, too."""
    try:
        yield from examine()
    except Exception as error:  # Whatever is broken here, the other findings help to mend it.
        yield Finding(examine.__name__, "error", f"{type(error).__name__}: {error}", "wrong")


# --- what there is ---------------------------------------------------------------------------------------------------


def software() -> Iterator[Finding]:
    """Yield the package, Python, and the packages that it requires."""
    from mossvl.version import __version__

    here = str(Path(__file__).parents[1])
    yield Finding("software", "mossvl", __version__, note=here)
    yield Finding("software", "Python", platform.python_version(), note=sys.executable)
    for name in ("torch", "transformers"):
        yield Finding("software", name, version_of(name) or "not installed", "ok" if version_of(name) else "wrong")
    unmet = [told for told in requirements("") if told]
    state: State = "wrong" if unmet else "ok"
    yield Finding("software", "required packages", "; ".join(unmet) or "all there", state)
    import av

    yield Finding("software", "FFmpeg", av.ffmpeg_version_info, note=f"in PyAV {av.__version__}: no other is needed")


def requirements(extra: str) -> Iterator[str]:
    """Yield "" for each requirement of an extra that is met, else what is missing; "" stands for no extra."""
    from packaging.requirements import Requirement

    for line in declared():
        wanted = Requirement(line)
        always = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if always if extra else not always:
            continue
        if extra and not (wanted.marker and wanted.marker.evaluate({"extra": extra})):
            continue
        found = version_of(wanted.name)
        met = found is not None and wanted.specifier.contains(found, prereleases=True)
        yield "" if met else f"{wanted.name}{wanted.specifier} ({found or 'not installed'})"


def declared() -> list[str]:
    """Return the package's requirements; none if it runs from its sources, not installed."""
    try:
        return metadata.requires("mossvl") or []
    except metadata.PackageNotFoundError:
        return []


def version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def hardware() -> Iterator[Finding]:
    """Yield processor and GPUs, and what of them is used."""
    import torch

    from mossvl.loading import resolve_device, resolve_dtype

    fast = torch.backends.cpu.get_cpu_capability()
    yield Finding("hardware", "processor", f"{cores()} cores", note=f"{platform.machine()}, {fast}")
    most = memory()
    yield Finding("hardware", "memory", "unknown" if most is None else readable_bytes(most))
    yield from gpus()
    device = resolve_device(None)
    dtype = str(resolve_dtype(None, device)).removeprefix("torch.")
    yield Finding(
        "used", "device", str(device), note=f"weights in {dtype}; --device, --dtype and --quantization differ"
    )
    if device.type == "cuda":
        triton = find_spec("triton") is not None
        note = "" if triton else "without them, the model is several times slower: pip install triton"
        yield Finding("used", "kernels", "Triton" if triton else "PyTorch's", "ok" if triton else "missing", note)
    else:
        yield Finding("used", "threads", str(torch.get_num_threads()), note="OMP_NUM_THREADS sets another number")


def gpus() -> Iterator[Finding]:
    """Yield each GPU, after a computation on it."""
    import torch

    from mossvl.quantization.fp8 import FP8_CAPABILITY

    if not torch.cuda.is_available():
        built = f"PyTorch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "PyTorch is built for CPUs"
        yield Finding("hardware", "GPU", "none", "missing", f"the model runs on the processor; {built}")
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        try:
            free, total = torch.cuda.mem_get_info(number)
            torch.ones(8, device=f"cuda:{number}").sum().item()
        except RuntimeError as error:
            yield Finding("hardware", f"GPU {number}", properties.name, "wrong", first_line(error))
            continue
        capability = f"compute capability {properties.major}.{properties.minor}"
        fp8 = "" if (properties.major, properties.minor) >= FP8_CAPABILITY else "; too old for FP8"
        room = f"{readable_bytes(free)} of {readable_bytes(total)} free"
        yield Finding("hardware", f"GPU {number}", f"{properties.name}, {room}", note=capability + fp8)


def memory() -> int | None:
    """Return the bytes of memory of this machine, or of its container, if they are known."""
    limits = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (told := limit.read_text().strip()).isdigit():
        limits.append(int(told))
    return min(limits, default=None)


def sizes() -> Iterator[Finding]:
    """Yield whether checkpoints of the published size fit into this machine's memory."""
    import torch

    from mossvl.cli.fitting import FRAMES, PLAIN, SIDE, fits
    from mossvl.model.configuration import MossVLConfig
    from mossvl.quantization.fp8 import FP8_CAPABILITY

    needs = fits(MossVLConfig(), {})
    if torch.cuda.is_available():
        cards = range(torch.cuda.device_count())
        most = max(torch.cuda.get_device_properties(number).total_memory for number in cards)
        rooms = {name: need["needed_bytes"] for name, need in needs.items()}
        flags = {PLAIN: ""} | {name: f" -q {name}" for name in rooms if name != PLAIN}
        if max(torch.cuda.get_device_capability(number) for number in cards) < FP8_CAPABILITY:
            del flags["fp8"]
        beside = f"weights, and a video of {FRAMES} frames of {SIDE} × {SIDE}"
    else:
        most, plain = memory() or 0, needs[PLAIN]["weight_bytes"]
        working = needs[PLAIN]["needed_bytes"] - plain
        rooms = {name: round(plain * share) + working for name, share in CPU_WEIGHT_BYTES.items()}
        flags = {"float32": "", "bfloat16": " --dtype bfloat16", "int8": " -q int8"}
        beside = "on the processor"
    for name, needed in rooms.items():
        fit = needed <= most
        yield Finding(
            "MOSS-VL (11B)",
            name,
            f"needs {readable_bytes(needed)}",
            "ok" if fit else "missing",
            beside if fit else "no room",
        )
    best = next((name for name, needed in rooms.items() if needed <= most and name in flags), None)
    if best is None:
        yield Finding("MOSS-VL (11B)", COMMAND, "none", "missing", "too little memory here; mossvl-tiny needs none")
    else:
        told = f'mossvl ask -c {PUBLISHED}{flags[best]} photo.jpg "What is this?"'
        yield Finding("MOSS-VL (11B)", COMMAND, told, note=f"downloads {DOWNLOAD_BYTES / 1e9:.0f} GB once")


def extras() -> Iterator[Finding]:
    """Yield the package's extras: whether what they require is there."""
    for extra in dict.fromkeys(found for line in declared() for found in re.findall(r"extra == ['\"]([\w-]+)", line)):
        if extra not in WITHOUT:
            continue
        unmet = [told for told in requirements(extra) if told]
        note = f"for {WITHOUT[extra]}" + (f": pip install 'mossvl[{extra}]'" if unmet else "")
        yield Finding("extras", extra, "; ".join(unmet) or "installed", "missing" if unmet else "ok", note)


def hub() -> Iterator[Finding]:
    """Yield where checkpoints of the model hub are kept, and whether they can be fetched."""
    from huggingface_hub import constants, get_token

    from mossvl.checkpoints.hub import cache_room

    cache, free = cache_room()
    room = f"{readable_bytes(free)} free" + (", too little for a checkpoint" if free < DOWNLOAD_BYTES else "")
    state: State = "missing" if free < DOWNLOAD_BYTES else "ok"
    yield Finding("model hub", "cache", str(cache), state, f"{room}; HF_HOME chooses another folder")
    fetched = "no: HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "yes, by name: -c OWNER/NAME"
    yield Finding("model hub", "downloads", fetched, "missing" if constants.HF_HUB_OFFLINE else "ok")
    token = "set" if get_token() else "none"
    yield Finding("model hub", "token", token, note="only private checkpoints need one: hf auth login")


# --- the table -------------------------------------------------------------------------------------------------------


def show(findings: list[Finding]) -> None:
    """Print the table, and a line that sums it up."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for style in ("", "", "bold"):
        table.add_column(no_wrap=not style, overflow="fold", style=style)
    table.add_column(overflow="fold")
    group = ""
    for one in findings:
        if one.name == COMMAND:
            continue
        if one.group != group:
            table.add_row("", "", "", "")
            table.add_row("", one.group, "", "", style="bold")
            group = one.group
        table.add_row(MARKS[one.state], f"  {one.name}", one.found, one.note)
    console.print(table)
    console.print()
    for one in findings:
        if one.name == COMMAND:
            console.print(f"The model of 11 billion parameters, here: {one.note}")
            console.print(f"    {one.found}\n", soft_wrap=True)
    wrong = [one.name for one in findings if one.state == "wrong"]
    console.print(f"Wrong: {', '.join(wrong)}." if wrong else "Nothing is wrong.")
