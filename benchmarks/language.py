"""How fast the engine's kernels are at the published size, against the device's own limits.

    python benchmarks/language.py

Kernels are timed by replaying CUDA graphs. Weights are distinct in every call, so that the L2 cache does not help.
Bandwidth is that of a device-to-device copy (bytes read and written), arithmetic that of an 8192³ matrix product, both
measured first. Needs about 30 GB of GPU memory.
"""

import statistics
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from mossvl.bench.hardware import ceilings
from mossvl.kernels import linear, paged

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, D, LAYERS, VOCABULARY = 4096, 12288, 32, 8, 128, 48, 151_936
PAGE = 32
SHAPES = {
    "qkv": ((HEADS + 2 * KV_HEADS) * D, HIDDEN),
    "o": (HIDDEN, HEADS * D),
    "gate_up": (2 * INTERMEDIATE, HIDDEN),
    "down": (HIDDEN, INTERMEDIATE),
}
SCALE = D**-0.5


def seconds(step: Callable[[], object], repeats: int = 10) -> float:
    """Median time of a graph of `step`."""
    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    graph.replay()
    for event in events[:-1]:
        event.record()
        graph.replay()
    events[-1].record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in pairwise(events)) / 1000


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16, device="cuda")


def ints(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int32).cuda()


class Pages:
    """Pools with some sequences in shuffled pages."""

    def __init__(self, lengths: list[int]) -> None:
        counts = [-(-length // PAGE) for length in lengths]
        self.k, self.v = randn(2, sum(counts) + 1, KV_HEADS, PAGE, D)
        order = torch.randperm(sum(counts)).split(counts)
        self.tables = torch.nn.utils.rnn.pad_sequence(list(order), batch_first=True).int().cuda()
        self.rows, self.lengths = ints(range(len(lengths))), ints(lengths)
        self.norm, self.arrivals = randn(D), ints([0] * (len(lengths) * KV_HEADS))
        self.cos, self.sin = randn(2, len(lengths), D)

    def decode(self, q: Tensor, new: paged.NewToken | None = None) -> Tensor:
        pools = self.k, self.v, self.tables, self.rows, self.lengths
        return paged.decode_attention(q, self.norm, 1e-6, self.cos, self.sin, *pools, SCALE, self.arrivals, new)

    def prefill(self, q: Tensor, tiles: Tensor, visible: Tensor, splits: int) -> Tensor:
        return paged.prefill_attention(q, self.k, self.v, self.tables, tiles, visible, SCALE, splits)


def step_of_all_layers(rows: int, context: int) -> Callable[[], Tensor]:
    """A decode step without cross attention: all layers' linears, rotation, pages and attention, and the lm_head."""
    weights = [{name: randn(*shape).mul_(0.02) for name, shape in SHAPES.items()} for _ in range(LAYERS)]
    head = randn(VOCABULARY, HIDDEN)
    x, norm = randn(rows, HIDDEN), randn(HIDDEN)
    pages = Pages([context] * rows)

    def step() -> Tensor:
        y = x
        for layer in weights:
            heads = linear.norm_linear(y, norm, 1e-6, layer["qkv"]).unflatten(1, (-1, D))
            q, k, v = heads.split([HEADS, KV_HEADS, KV_HEADS], dim=1)
            attended = pages.decode(q, paged.NewToken(k, v, pages.norm))
            y = linear.linear_residual(attended.flatten(1), layer["o"], y)
            y = linear.linear_residual(linear.norm_swiglu(y, norm, 1e-6, layer["gate_up"]), layer["down"], y)
        return linear.norm_linear(y, norm, 1e-6, head)

    return step


def linears(bandwidth: float) -> None:
    print("\n| product, rows | time, µs | of the copy's bandwidth |\n|---|---|---|")
    norm = {width: randn(width) for width in (HIDDEN, INTERMEDIATE)}
    for name, shape in (SHAPES | {"lm_head": (VOCABULARY, HIDDEN)}).items():
        size = 2 * shape[0] * shape[1]
        weights = [randn(*shape) for _ in range(max(3, 1_500_000_000 // size))]
        for rows in (1, 4, 16, 32, 64):
            x, residual = randn(rows, shape[1]), randn(rows, shape[0])

            def step(
                x: Tensor = x, residual: Tensor = residual, name: str = name, weights: list[Tensor] = weights
            ) -> None:
                for weight in weights:
                    if name == "gate_up":
                        linear.norm_swiglu(x, norm[HIDDEN], 1e-6, weight)
                    elif name in ("o", "down"):
                        linear.linear_residual(x, weight, residual)
                    else:
                        linear.norm_linear(x, norm[HIDDEN], 1e-6, weight)

            each = seconds(step) / len(weights)
            print(f"| {name}, {rows} | {each * 1e6:.1f} | {size / each / bandwidth:.0%} |")


def decode(bandwidth: float) -> None:
    print("\n| decode attention over | time, µs | of the copy's bandwidth |\n|---|---|---|")
    cases = {
        "1 × 100": [100],
        "1 × 2,632": [2632],
        "1 × 56,576": [56_576],
        "32 × 2,632": [2632] * 32,
        "256 × 300": [300] * 256,
        "255 × 100 and 100,000": [100] * 100 + [100_000] + [100] * 155,
    }
    for name, lengths in cases.items():
        pages, q = Pages(lengths), randn(len(lengths), HEADS, D)
        each = seconds(lambda pages=pages, q=q: [pages.decode(q) for _ in range(10)]) / 10  # type: ignore[misc]
        print(f"| {name} | {each * 1e6:.1f} | {sum(lengths) * KV_HEADS * D * 4 / each / bandwidth:.0%} |")


def prefill(arithmetic: float) -> None:
    print("\n| prefill attention | time, µs | TFLOP/s | of the product's |\n|---|---|---|---|")
    rows, vision = 2632, 56_576
    cases = {
        "2,632 causal": (rows, torch.arange(rows) + 1),
        "2,632 over a growing prefix of 56,576": (vision, (torch.arange(rows) * 256 // rows + 1) * 221),
        "30 over 56,576": (vision, torch.full((30,), vision)),
    }
    for name, (length, visible) in cases.items():
        pages, q = Pages([length]), randn(len(visible), HEADS, D)
        firsts = range(0, len(visible), paged.TILE_ROWS)
        tiles = ints([(0, first, min(paged.TILE_ROWS, len(visible) - first)) for first in firsts])
        seen, splits = ints(visible), paged.choose_splits(len(tiles), KV_HEADS, length)
        each = seconds(lambda a=(q, tiles, seen, splits), pages=pages: pages.prefill(*a), 5)  # type: ignore[misc]
        rate = 4 * D * HEADS * int(visible.sum()) / each
        print(f"| {name} ({splits} splits) | {each * 1e6:.0f} | {rate / 1e12:.0f} | {rate / arithmetic:.0%} |")


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    bandwidth, arithmetic = ceilings(torch.device("cuda")).values()
    name = torch.cuda.get_device_name()
    print(f"{name}: copy {bandwidth / 1e12:.2f} TB/s, product {arithmetic / 1e12:.0f} TFLOP/s")
    linears(bandwidth)
    decode(bandwidth)
    prefill(arithmetic)
    read = 2 * (LAYERS * sum(n * k for n, k in SHAPES.values()) + VOCABULARY * HIDDEN)
    print(f"\n| a step of all layers ({read / 1e9:.1f} GB of weights) | time, ms | times reading the weights |")
    print("|---|---|---|")
    for rows in (1, 32):
        each = seconds(step_of_all_layers(rows, 100))
        print(f"| {rows} × 100 | {each * 1e3:.2f} | {each * bandwidth / read:.2f} × |")
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
