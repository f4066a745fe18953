"""How fast the vision tower is on a GPU, next to what its parts take alone.

    python benchmarks/vision.py --output vision.md

Makes a tower of the published size with random weights and encodes 256 frames of 880 patches, 64 of 784, and one image
of 4096. The parts are the products of the blocks, attention within frames, and the merger, each by the operations that
the tower uses; the rest is what lies between them. Beside them stand two ceilings of the same card: the bandwidth of a
copy, and the rate of a large product.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

from mossvl.bench.hardware import ceilings, milliseconds
from mossvl.device.triton_vision import TritonOps
from mossvl.model.configuration import MossVLVisionConfig
from mossvl.model.vision import VisionTower
from mossvl.model.vision_ops import PLAIN, Grid, attend_by_frame

CASES: dict[str, Grid] = {
    "256 frames × 880": (256, 22, 40),
    "64 frames × 784": (64, 28, 28),
    "1 image × 4096": (1, 64, 64),
}
REPEATS = 5
CHUNK = 64
"""Frames encoded at a time."""


def parts(tower: VisionTower, grid: Grid) -> dict[str, float]:
    """Milliseconds of the products, of attention and of the merger alone, as often in a row as one encoding does them:
    for a moment, a card is faster than it can stay."""
    config, block, ops = tower.config, tower.blocks[0], TritonOps()
    chunks = -(-grid[0] // CHUNK)
    frames, patches = grid[0] // chunks, grid[1] * grid[2]
    rows, hidden = frames * patches, config.hidden_size
    x, wide = (torch.randn(rows, n, device="cuda", dtype=torch.bfloat16) for n in (hidden, config.intermediate_size))
    qkv = torch.randn(rows, 3, config.num_heads, hidden // config.num_heads, device="cuda", dtype=torch.bfloat16)
    merged = torch.randn(rows // 4, tower.merger.linear_fc1.in_features, device="cuda", dtype=torch.bfloat16)
    stream = torch.zeros_like(x)

    def products() -> None:
        for _ in range(config.depth * chunks):
            block.attn.qkv(x)
            stream.addmm_(x, block.attn.proj.weight.t())
            ops.activated(block.mlp.linear_fc1, block.mlp.act_fn, x)
            stream.addmm_(wide, block.mlp.linear_fc2.weight.t())

    def attention() -> None:
        for _ in range(config.depth * chunks):
            attend_by_frame(*qkv.unbind(1), [(frames, patches)], F.scaled_dot_product_attention)

    def merger() -> None:
        for _ in range(chunks):
            tower.merger.linear_fc2(F.gelu(tower.merger.linear_fc1(merged)))

    return {part.__name__: milliseconds(part, REPEATS) for part in (products, attention, merger)}


@torch.no_grad()
def table(plain: bool) -> str:
    limits = ceilings(torch.device("cuda"))
    copy, product = limits["bytes_per_second"] / 1e12, limits["flops_per_second"] / 1e12
    config = MossVLVisionConfig()
    with torch.device("meta"):
        tower = VisionTower(config)
    tower = tower.bfloat16().to_empty(device="cuda")
    for parameter in tower.parameters():
        parameter.normal_(std=0.02)
    lines = [
        f"{torch.cuda.get_device_name()}: copy {copy:.2f} TB/s, 8192³ product {product:.0f} TFLOP/s; milliseconds:",
        "",
        "| case | products | attention | merger | sum | tower | over the sum | plain tower |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, grid in CASES.items():
        alone = parts(tower, grid)
        pixels = torch.randint(0, 256, (grid[0] * grid[1] * grid[2], 768), device="cuda", dtype=torch.uint8)
        ops, total = TritonOps(), sum(alone.values())
        fused = milliseconds(lambda pixels=pixels, grid=grid, ops=ops: tower(pixels, [grid], CHUNK, ops), REPEATS)
        eager = milliseconds(lambda pixels=pixels, grid=grid: tower(pixels, [grid], CHUNK, PLAIN), 2) if plain else 0
        cells = [*(f"{value:.1f}" for value in (*alone.values(), total, fused)), f"{fused / total - 1:+.1%}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {f'{eager:.1f}' if plain else ''} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="file for the table; by default it is only printed")
    parser.add_argument("--plain", action="store_true", help="also time the tower on PyTorch's operations alone")
    arguments = parser.parse_args()
    result = table(arguments.plain)
    print(result)
    if arguments.output:
        arguments.output.write_text(result + "\n")


if __name__ == "__main__":
    main()
