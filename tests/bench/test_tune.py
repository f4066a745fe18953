"""The search of blocks: which ways are kept."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")
from mossvl.bench import tune
from mossvl.kernels.blocks import OneRow, Product


def test_the_search_keeps_the_fastest_blocks(monkeypatch):
    fastest = list(OneRow(2, 1024, 4, 0))
    table: dict[str, dict[str, list[int]]] = {}
    chain = SimpleNamespace(rows=1, products={"down": Product(8, 8)}, step=lambda: torch.ones(1))

    def time(chain, reference):
        chosen = table.get("one_row", {}).get("8 × 8")
        return 1.0 if chosen == fastest else 2.0 if chosen is None else 3.0

    monkeypatch.setattr(tune, "_microseconds", time)
    found = list(tune._search(chain, table))
    assert table == {"one_row": {"8 × 8": fastest}, "decode": {}}
    assert found == [("down, round 1", 1.0, fastest), ("down, round 2", 1.0, fastest)]


@pytest.mark.gpu
@pytest.mark.xdist_group("gpu")
def test_blocks_that_do_not_fit_take_for_ever():
    device = torch.device("cuda")
    with torch.inference_mode():
        chain = tune.Chain(1, device)
        reference = chain.step()
        assert tune._microseconds(chain, reference) < 1e4
        assert tune._microseconds(chain, reference + 1e3) == float("inf")
