"""Search of the blocks of kernels (`kernels.blocks`) on a GPU, in a chain of layers of the published size.

In a chain, as in a decode step, a product's first weights load while the kernel before it ends, so that the fastest
blocks are not those of the fastest kernel alone. One choice after the other is replaced by the best of its candidates.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from mossvl.bench.hardware import milliseconds
from mossvl.bench.measure import Row
from mossvl.kernels import blocks, linear, paged
from mossvl.kernels.blocks import Decode, FewRows, OneRow, Product
from mossvl.model.configuration import MossVLTextConfig

PAGE = 32
LAYERS = 8
"""Every fourth attends to vision tokens. They have more weights than an L2 cache holds."""
TEXT_TOKENS = 137
VISION_TOKENS = {1: 1025, 16: 197, 32: 197}
"""By the number of rows."""
ROUNDS = 2
TOLERANCE = 0.02
"""Largest relative difference from the result with the first blocks: blocks that miscompute are never chosen."""

DECODE = [
    *(Decode(64, 4, 2, 4, 1), Decode(64, 4, 3, 2, 1), Decode(64, 4, 3, 3, 1), Decode(128, 4, 1, 3, 1)),
    *(Decode(32, 2, 4, 4, 1), Decode(32, 1, 4, 4, 1), Decode(64, 2, 2, 4, 1), Decode(128, 8, 1, 3, 1)),
    *(Decode(32, 2, 6, 2, 1), Decode(32, 2, 6, 2, 4), Decode(32, 2, 8, 2, 1), Decode(64, 2, 4, 2, 1)),
]
ONE_ROW = [
    OneRow(outs, inner, warps, ahead)
    for outs, inner, warps, ahead in product((1, 2, 4, 8), (512, 1024, 2048, 4096), (2, 4, 8), (-1, 0, 1056))
    if 8 <= outs * inner // (32 * warps) <= 64
]
FEW_ROWS = [
    FewRows(outs, inner, 4, stages, fetched, apart)
    for (outs, inner), stages, fetched, apart in product(
        [(16, 512), (32, 128), (32, 256), (32, 512), (64, 64), (64, 128), (64, 256)], (3, 4, 5), (0, 2048, 8192), (0, 1)
    )
]


class Chain:
    """Layers of the published size with random weights, and `rows` requests that decode."""

    def __init__(self, rows: int, device: torch.device) -> None:
        config = MossVLTextConfig()
        self.rows, self.device = rows, device
        self.d, self.heads, self.kv_heads = config.head_dim, config.num_attention_heads, config.num_key_value_heads
        hidden, inner = config.hidden_size, config.intermediate_size
        width = self.heads * self.d
        self.products = {
            "queries, keys, values": Product(width + 2 * self.kv_heads * self.d, hidden, norm=True),
            "queries": Product(width, hidden, norm=True),
            "output": Product(hidden, width),
            "gate and up": Product(inner, hidden, norm=True, pair=True),
            "down": Product(hidden, inner),
        }
        self.x, self.norm, self.head_norm = self._randn(rows, hidden), self._randn(hidden), self._randn(self.d)
        self.cos, self.sin = self._randn(2, rows, self.d)
        self.gate, self.sees = self._randn(1), torch.ones_like(self.x[:, :1])
        self.arrivals = torch.zeros(rows * self.kv_heads, dtype=torch.int32, device=device)
        self.table_rows = torch.arange(rows, dtype=torch.int32, device=device)
        self.layers = [
            (
                {name: self._randn(one.outs * (1 + one.pair), one.inner) * 0.02 for name, one in self.products.items()},
                self._pages(VISION_TOKENS[rows] if number % 4 == 3 else TEXT_TOKENS),
            )
            for number in range(LAYERS)
        ]

    def _randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.bfloat16, device=self.device)

    def _pages(self, tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys, values, block tables, and lengths."""
        count = -(-tokens // PAGE)
        pools = self._randn(2, count * self.rows, self.kv_heads, PAGE, self.d)
        tables = torch.randperm(count * self.rows, device=self.device).view(self.rows, count).int()
        return pools[0], pools[1], tables, torch.full_like(self.table_rows, tokens)

    def step(self) -> Tensor:
        x = self.x
        for number, (weights, (keys, values, tables, lengths)) in enumerate(self.layers):
            crosses = number % 4 == 3
            gated = (self.gate, self.sees) if crosses else ()
            projected = weights["queries" if crosses else "queries, keys, values"]
            heads = linear.norm_linear(x, self.norm, 1e-6, projected).unflatten(1, (-1, self.d))
            q, new = heads[:, : self.heads], None
            if not crosses:
                k, v = heads[:, self.heads :].chunk(2, dim=1)
                new = paged.NewToken(k, v, self.head_norm)
            y = paged.decode_attention(
                q, self.head_norm, 1e-6, self.cos, self.sin, keys, values, tables, self.table_rows, lengths,
                self.d**-0.5, self.arrivals, new,
            )  # fmt: skip
            x = linear.linear_residual(y.flatten(1), weights["output"], x, *gated)
            y = linear.norm_swiglu(x, self.norm, 1e-6, weights["gate and up"])
            x = linear.linear_residual(y, weights["down"], x, *gated)
        return x


def tune(device: torch.device) -> Iterator[Row]:
    """Search the blocks for a device, and write them to `blocks.own_file()`. Takes about ten minutes."""
    table = blocks.measured(device)
    table["device"] = {"capability": list(torch.cuda.get_device_capability(device))}
    with torch.inference_mode():
        for rows in VISION_TOKENS:
            torch.cuda.empty_cache()
            chain = Chain(rows, device)
            for name, time, chosen in _search(chain, table):
                yield Row(f"{rows} rows, {name}", time, "µs a layer", [time], str(list(chosen)))
    blocks.write({torch.cuda.get_device_name(device): table}, blocks.own_file())


def _search(chain: Chain, table: dict[str, dict[str, list[int]]]) -> Iterator[tuple[str, float, Sequence[int]]]:
    """Choose blocks in `table`; yield what was searched, the time of a layer in µs, and the blocks chosen."""
    kind, candidates = ("one_row", ONE_ROW) if chain.rows == 1 else (f"rows_{chain.rows}", FEW_ROWS)
    searched: list[tuple[str, str, str, Sequence[Sequence[int]]]]
    searched = [(name, kind, str(one), candidates) for name, one in chain.products.items()]
    searched.append(("attention", "decode", str(chain.rows), DECODE))
    searched.append(("attention to vision tokens", "decode", f"{chain.rows}, cross", DECODE))
    reference = chain.step()
    best = _microseconds(chain, reference)
    for number in range(ROUNDS):
        for name, kind, shape, tried in searched:
            chosen = table.setdefault(kind, {}).get(shape)
            for one in tried:
                table[kind][shape] = list(one)
                time = _microseconds(chain, reference)
                if time < best:
                    best, chosen = time, list(one)
            if chosen is None:
                del table[kind][shape]
            else:
                table[kind][shape] = chosen
                yield f"{name}, round {number + 1}", best, chosen


def _microseconds(chain: Chain, reference: Tensor) -> float:
    """The time of a layer, replayed as a CUDA graph; infinite if the blocks do not fit the device or miscompute."""
    from triton.runtime.errors import OutOfResources

    try:
        result = chain.step()
    except OutOfResources:
        return float("inf")
    if not (result - reference).norm() <= TOLERANCE * reference.norm():
        return float("inf")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        chain.step()
    return milliseconds(graph.replay) * 1e3 / LAYERS
