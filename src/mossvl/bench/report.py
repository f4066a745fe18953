"""Benchmark reports: JSON and Markdown."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mossvl.bench.measure import Row


def markdown(title: str, hardware: dict[str, str], ceilings: dict[str, float], rows: Iterable[Row]) -> str:
    """Return a heading, hardware and versions, and a table of figures."""
    versions = ", ".join(f"{name} {value}" for name, value in hardware.items() if name not in ("date", "device"))
    lines = [f"## {title}", "", f"{hardware['device']}, {hardware['date']}; {versions}."]
    if ceilings:
        copied, product = ceilings["bytes_per_second"] / 1e12, ceilings["flops_per_second"] / 1e12
        lines.append(f"In the same run, a copy moved {copied:.2f} TB/s and an 8192³ product did {product:.0f} TFLOP/s.")
    rows = list(rows)
    same = all(row.statistic == "median" for row in rows)
    lines += ["", f"| | {'median' if same else 'figure'} | lowest … highest | |", "|---|---|---|---|"]
    for row in rows:
        kind = "" if same else f", {row.statistic}"
        spread = f"{figure(min(row.all))} … {figure(max(row.all))}"
        lines.append(f"| {row.name} | {figure(row.value)} {row.unit}{kind} | {spread} | {row.note} |")
    return "\n".join(lines) + "\n"


def figure(value: float) -> str:
    """Format with three significant digits, or as an integer from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write(path: Path, results: dict[str, Any]) -> None:
    """Write results as JSON; rows become objects."""
    path.write_text(json.dumps(results, indent=1, default=asdict) + "\n")
