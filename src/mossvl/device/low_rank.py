"""The adapters of packed rows on a GPU: stacked by linears with one input, computed by a kernel for rows of any."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mossvl.adapters.loaded import Adapters
from mossvl.kernels.low_rank import FEW_ROWS, Stack, add_low_rank, low_rank
from mossvl.model.layers import RMSNorm
from mossvl.scheduling.pages import NO_ADAPTER

LEAST_RANK = 16
"""The least rank that tensor cores take."""


class Stacks:
    """The adapters stacked, by linears with one input.

    Args:
        groups: linears that are computed together; others are computed alone.
    """

    def __init__(self, adapters: Adapters, groups: Sequence[Sequence[nn.Module]]) -> None:
        self._stacks: dict[tuple[nn.Module, ...], Stack] = {}
        self._adapted = set(adapters.of)
        rest = dict.fromkeys(adapters.of)
        for group in map(tuple, groups):
            if any(one in rest for one in group):
                self._stacks[group] = stacked(adapters, group)
                for one in group:
                    rest.pop(one, None)
        for one in rest:
            self._stacks[one,] = stacked(adapters, (one,))

    def warm_up(self) -> None:
        """Compile the products of inputs without a norm, of few rows and of many, which no captured step may have."""
        for stack in self._stacks.values():
            for rows in (1, FEW_ROWS + 1):
                x, y = stack.down.new_zeros((rows, stack.down.shape[-1])), stack.up.new_zeros((rows, sum(stack.outs)))
                add_low_rank(y, x, stack, torch.full((rows,), NO_ADAPTER, dtype=torch.int32, device=x.device))

    def of(self, linears: Sequence[nn.Module]) -> Stack | None:
        """The stack of linears; None if no adapter has one of them."""
        stack = self._stacks.get(tuple(linears))
        assert stack is not None or self._adapted.isdisjoint(linears), "the linears are not computed in these groups"
        return stack


@torch.no_grad()
def stacked(adapters: Adapters, linears: Sequence[nn.Module]) -> Stack:
    """The adapters of linears; frees what was loaded, of which it is a copy."""
    lows = [adapters.of.pop(one, [None] * len(adapters)) for one in linears]
    first = next(low for own in lows for low in own if low is not None)
    most = max(len(low.down) for own in lows for low in own if low is not None)
    rank = max(LEAST_RANK, 1 << (most - 1).bit_length())
    outs = tuple(int(one.out_features) for one in linears)  # type: ignore[arg-type]
    down = first.down.new_zeros((len(adapters), len(linears), rank, first.down.shape[1]))
    up = first.up.new_zeros((len(adapters), sum(outs), rank))
    for number, own in enumerate(lows):
        begin = sum(outs[:number])
        for index, low in enumerate(own):
            if low is not None:
                down[index, number, : len(low.down)] = low.down
                up[index, begin : begin + outs[number], : len(low.down)] = low.up
    return Stack(down, up, outs)


class StackedRows:
    """`LowRankRows` of a step.

    Args:
        index: (rows,) int32 index of each row's adapter; below 0 for none.
    """

    def __init__(self, stacks: Stacks, index: Tensor) -> None:
        self._stacks, self._index = stacks, index

    def add(
        self,
        y: Tensor,
        x: Tensor,
        linears: Sequence[nn.Module],
        norm: RMSNorm | None = None,
        gate: Tensor | None = None,
        sees: Tensor | None = None,
    ) -> None:
        if (stack := self._stacks.of(linears)) is not None:
            apart = None if norm is None else (norm.weight, norm.eps)
            add_low_rank(y, x, stack, self._index, apart, gate, sees)

    def alone(self, x: Tensor, linears: Sequence[nn.Module], norm: RMSNorm) -> Tensor | None:
        stack = self._stacks.of(linears)
        return None if stack is None else low_rank(x, stack, self._index, (norm.weight, norm.eps))
