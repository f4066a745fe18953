"""How kernels divide their work: tables of devices, and what fits where none was measured."""

from pathlib import Path

import pytest
import torch

from mossvl.kernels import blocks
from mossvl.kernels.blocks import Decode, FewRows, OneRow, Product
from mossvl.model.configuration import MossVLTextConfig

SHIPPED = Path(blocks.__file__).with_suffix(".toml")
DEVICE = torch.device("cuda", 0)
DOWN = Product(4096, 12288)
KINDS = ("fp8", "int4", "nf4")
FP8_ROWS = 16
"""Most rows with blocks of their own; triton need not be installed to read them."""


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """Makes `DEVICE` a GPU with this name and compute capability."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def found(name, capability):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        blocks.measured.cache_clear()

    yield found
    blocks.measured.cache_clear()


def products():
    config = MossVLTextConfig()
    hidden, width, inner = config.hidden_size, config.num_attention_heads * config.head_dim, config.intermediate_size
    both = 2 * config.num_key_value_heads * config.head_dim
    return [
        *(Product(width + both, hidden, norm=True), Product(width, hidden, norm=True), Product(hidden, width)),
        *(Product(inner, hidden, norm=True, pair=True), Product(hidden, inner), Product(config.vocab_size, hidden)),
    ]


def quantized(rows):
    """Those of quantized models: the head is in FP8, of which many rows are multiplied in 8 bits."""
    four_bits = [one._replace(kind=kind) for kind in ("int4", "nf4") for one in products()[:-1]]
    return four_bits + ([one._replace(kind="fp8") for one in products()] if rows <= FP8_ROWS else [])


def test_shipped_tables_have_every_product_of_the_published_size():
    tables = blocks.read(SHIPPED)
    assert tables
    for table in tables.values():
        for kind, rows in (("one_row", 1), ("rows_16", 16), ("rows_32", 32)):
            assert table[kind].keys() == {str(one) for one in products() + quantized(rows)}
        assert table["decode"].keys() >= {str(rows) for rows in blocks.ROWS}


@pytest.mark.parametrize("rows", [2, 16, 32])
@pytest.mark.parametrize("kind", KINDS)
def test_unmeasured_devices_have_the_shared_memory_of_quantized_weights(gpu, kind, rows):
    for kib, capability in ((99, (8, 9)), (163, (8, 0)), (227, (10, 0))):
        gpu("another", capability)
        for product in products():
            one = blocks.few_rows(DEVICE, rows, product._replace(kind=kind), torch.bfloat16)
            outs, columns = one.outs * (1 + product.pair), one.inner * one.warps
            weights = outs * columns * (1 if kind == "fp8" else 1 / 2 + 4 / 8)  # A scale in float32 for each word.
            assert one.stages * (weights + max(8, rows) * columns * 2) <= kib << 10


def test_a_device_has_its_own_table(gpu):
    gpu("NVIDIA H200", (9, 0))
    table = blocks.read(SHIPPED)["NVIDIA H200"]
    assert blocks.one_row(DEVICE, DOWN, torch.bfloat16) == OneRow(*table["one_row"][str(DOWN)])
    for rows, kind in ((2, "rows_16"), (16, "rows_16"), (17, "rows_32"), (32, "rows_32")):
        assert blocks.few_rows(DEVICE, rows, DOWN, torch.bfloat16) == FewRows(*table[kind][str(DOWN)])
    for rows, key in ((1, "1"), (2, "16"), (32, "32"), (33, "256"), (1000, "256")):
        assert blocks.decode(DEVICE, rows, torch.bfloat16) == Decode(*table["decode"][key])
        crossing = table["decode"].get(f"{key}, cross", table["decode"][key])
        assert blocks.decode(DEVICE, rows, torch.bfloat16, crosses=True) == Decode(*crossing)


def test_a_device_without_a_table_takes_one_of_its_capability(gpu):
    gpu("NVIDIA H100 80GB HBM3", (9, 0))
    table = blocks.read(SHIPPED)["NVIDIA H200"]
    assert blocks.one_row(DEVICE, DOWN, torch.float16) == OneRow(*table["one_row"][str(DOWN)])


def test_what_was_measured_on_this_machine_goes_first(gpu):
    own = {"device": {"capability": [8, 0]}, "one_row": {str(DOWN): [3, 1024, 4, 7]}}
    blocks.write({"NVIDIA A100": own}, blocks.own_file())
    assert blocks.read(blocks.own_file()) == {"NVIDIA A100": own}
    gpu("NVIDIA A100", (8, 0))
    assert blocks.one_row(DEVICE, DOWN, torch.bfloat16) == OneRow(3, 1024, 4, 7)
    gpu("NVIDIA L4", (8, 9))
    assert blocks.one_row(DEVICE, DOWN, torch.bfloat16) != OneRow(3, 1024, 4, 7)
    own["device"]["capability"] = [9, 0]
    blocks.write({"NVIDIA H200": own}, blocks.own_file())
    gpu("NVIDIA H200", (9, 0))
    assert blocks.one_row(DEVICE, DOWN, torch.bfloat16) == OneRow(3, 1024, 4, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", [2, 16, 32])
def test_unmeasured_devices_have_the_shared_memory(gpu, rows, dtype):
    """Even if every stage of the pipeline had a buffer."""
    for kib, capability in ((99, (8, 9)), (99, (12, 0)), (163, (8, 0)), (227, (10, 0))):
        gpu("another", capability)
        for product in [*products(), Product(72, 160), Product(72, 160, norm=True, pair=True)]:
            one = blocks.few_rows(DEVICE, rows, product, dtype)
            weights, x = one.outs * (1 + product.pair), max(16, rows)
            buffers = one.stages - (kib == 163)  # Before Hopper, Triton keeps one stage less; large blocks need that.
            assert buffers * (weights + x) * one.inner * dtype.itemsize <= kib << 10


@pytest.mark.parametrize(
    "text",
    [
        "not toml",
        '["A".one_row]\n"1 × 1" = [1, 2, 3, 4]',
        '["A".device]\ncapability = [9, 0]\n["A".decode]\n1 = [1, 2]',
    ],
)
def test_a_file_of_another_version_is_told(tmp_path, text):
    file = tmp_path / "blocks.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"blocks\.toml.*mossvl bench tune"):
        blocks.read(file)


def test_float32_takes_no_blocks_of_16_bits(gpu):
    gpu("NVIDIA H200", (9, 0))
    assert blocks.few_rows(DEVICE, 8, DOWN, torch.float32) == FewRows(32, 64, 4, 2, 0, 0)
    assert blocks.one_row(DEVICE, DOWN, torch.float32).ahead == -1
    assert blocks.decode(DEVICE, 1, torch.float32).tokens == 32


def test_without_a_home_folder_the_shipped_tables_are_read(gpu, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # A container's user without a name.
    gpu("NVIDIA H200", (9, 0))
    assert blocks.decode(DEVICE, 1, torch.bfloat16) == Decode(*blocks.read(SHIPPED)["NVIDIA H200"]["decode"]["1"])
