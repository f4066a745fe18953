"""How kernels divide their work: as measured for a device and shape, else as fits every device.

The package has the tables of some devices (`blocks.toml`). `mossvl bench tune` measures a device and writes its table
to `own_file()`, which goes before them.
"""

import os
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

Table = dict[str, dict[str, list[int]]]
"""For each kind of blocks (`one_row`, `rows_16`, `decode` …), what is chosen, by the shape; and `device`."""

ROWS = (1, 16, 32, 256)
"""Numbers of rows with blocks of their own, which stand for all numbers down to the one before."""
ROOMY = {(8, 0), (8, 7), (9, 0), (10, 0), (10, 3)}
"""Compute capabilities with at least 163 KiB of shared memory for a program; others have 99."""


class OneRow(NamedTuple):
    """The product of one row: `outs` outputs a program, `inner` columns at a time.

    `ahead`: a program fetches the weights of the program that is so many later to L2; -1: none. With quantized weights
    there are no more programs than that, and each computes what so many later ones would.
    """

    outs: int
    inner: int
    warps: int
    ahead: int


class FewRows(NamedTuple):
    """The product of few rows: `outs` outputs a program, `inner` columns at a time, in a pipeline of `stages`.

    With quantized weights, warps share the columns, each has `inner` of them at a time, and the norm is always apart.
    `fetched`: bytes of each weight row that a program fetches to L2 before it waits. `apart`: 1 if the norm before the
    product is a kernel of its own.
    """

    outs: int
    inner: int
    warps: int
    stages: int
    fetched: int
    apart: int


class Decode(NamedTuple):
    """Decode attention: `tokens` at a time, `programs` a multiprocessor.

    `share`: splits have at least as many times `tokens`, if a row has eight times that.
    """

    tokens: int
    warps: int
    programs: int
    stages: int
    share: int


LENGTHS = {"device": 2, "one_row": len(OneRow._fields), "decode": len(Decode._fields)}
"""Of the lists of a table, by its kinds; of others, that of `FewRows`."""


class Product(NamedTuple):
    """The shape of a product: (outs, inner), with a norm before it, or the pair of products of SwiGLU.

    `kind` is that of quantized weights: fp8, int4 or nf4.
    """

    outs: int
    inner: int
    norm: bool = False
    pair: bool = False
    kind: str = ""

    def __str__(self) -> str:
        kind = ", pair" if self.pair else ", norm" if self.norm else ""
        return f"{self.outs} × {self.inner}{kind}{self.kind and ', ' + self.kind}"


def one_row(device: torch.device, product: Product, dtype: torch.dtype) -> OneRow:
    if dtype.itemsize == 2 and (found := measured(device).get("one_row", {}).get(str(product))):
        return OneRow(*found)
    if product.kind:
        return OneRow(2 if product.kind == "fp8" else 4, 4096, 8 if product.kind == "fp8" else 4, -1)
    return OneRow(4 if product.pair else 8, 4096 // dtype.itemsize, 8, -1)


def few_rows(device: torch.device, rows: int, product: Product, dtype: torch.dtype) -> FewRows:
    if dtype.itemsize == 4:
        return FewRows(32, 64, 4, 2, 0, 0)
    if found := measured(device).get(f"rows_{_at_most(rows)}", {}).get(str(product)):
        return FewRows(*found)
    if product.kind:
        return FewRows(16, 128, 4 if _has_room(device) else 2, 3, 0, 1)
    if not _has_room(device):
        outs, inner = (64, 64) if product.pair else (64, 128) if product.norm else (32, 256)
        return FewRows(outs, inner, 4, 3, 0, 0)
    if product.pair:
        return FewRows(64, 128, 4, 3, 0, 0) if rows <= 16 else FewRows(64, 64, 4, 5, 0, 0)
    if product.norm:
        return FewRows(64, 256, 4, 3, 0, 0)
    return FewRows(16, 512, 2, 4, 0, 0) if rows <= 16 else FewRows(32, 512, 4, 3, 0, 0)


def decode(device: torch.device, rows: int, dtype: torch.dtype, crosses: bool = False, fp8_page: int = 0) -> Decode:
    """Decode attention of `rows` rows of a dtype, to vision tokens if it `crosses`.

    Args:
        fp8_page: tokens of a page, if pages are in FP8; else 0.
    """
    if dtype.itemsize == 4:
        return Decode(32, 4, 4, 2, 1)
    if fp8_page:  # Instructions bound the rate: they are fewest where a page holds whole blocks.
        return Decode(64, 2, 4, 3, 4) if fp8_page >= 64 else Decode(32, 2, 4, 6, 4)
    table, kind = measured(device).get("decode", {}), str(_at_most(rows))
    if found := table.get(f"{kind}, cross" if crosses else kind) or table.get(kind):
        return Decode(*found)
    return Decode(64, 4, 3, 2, 1)


def _at_most(rows: int) -> int:
    return next((one for one in ROWS if rows <= one), ROWS[-1])


def _has_room(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) in ROOMY


def own_file() -> Path:
    """The file of tables that were measured on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "mossvl" / "blocks.toml"


@cache
def measured(device: torch.device) -> Table:
    """The table of a device, or of another one with the same compute capability; a search changes it.

    Raises:
        ValueError: `own_file()` holds no tables.
    """
    if device.type != "cuda":
        return {}
    name, capability = torch.cuda.get_device_name(device), list(torch.cuda.get_device_capability(device))
    tables = [read(path) for path in (own_file(), Path(__file__).with_suffix(".toml")) if os.path.isfile(path)]
    same = [table[name] for table in tables if name in table]
    alike = [one for table in tables for one in table.values() if one["device"]["capability"] == capability]
    return next(iter(same + alike), {})


def read(file: Path) -> dict[str, Table]:
    """The tables of a file, by the device's name.

    Raises:
        ValueError: it holds none, or those of another version.
    """
    try:
        tables: dict[str, Table] = tomllib.loads(file.read_text(encoding="utf-8"))
        for kind, chosen in (pair for table in tables.values() for pair in table.items()):
            length = LENGTHS.get(kind, len(FewRows._fields))
            if any(len(one) != length for one in chosen.values()):
                raise ValueError(f"{kind} has other numbers than {length}")
        if any("capability" not in table["device"] for table in tables.values()):
            raise ValueError("a device has no capability")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{file} holds no blocks of kernels that this version reads; delete it, or write it again with "
            "`mossvl bench tune`"
        ) from error
    return tables


def write(tables: dict[str, Table], file: Path) -> None:
    """Write the tables of some devices."""
    lines = []
    for device, table in tables.items():
        for kind, chosen in table.items():
            lines += [f'["{device}".{kind}]', *(f'"{shape}" = {list(blocks)}' for shape, blocks in chosen.items()), ""]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines), encoding="utf-8")
