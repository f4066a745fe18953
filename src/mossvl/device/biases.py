"""What is added to the logits of single tokens: biases, and -inf where an answer may not end yet."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mossvl.device.inputs import to_device
from mossvl.scheduling.request import Request


class Biases:
    """Adds to logits of some rows; what is added depends on a row's request alone.

    Args:
        of: addends of a request by token id, always the same; asked for once.
    """

    def __init__(self, of: Callable[[Request[object]], Mapping[int, float]]) -> None:
        self._of = of
        self._requests: dict[int, tuple[Tensor, Tensor]] = {}
        self._last: tuple[tuple[tuple[int, int], ...], Tensor, Tensor, Tensor] | None = None

    def add(self, logits: Tensor, requests: Mapping[int, Request[object]]) -> Tensor:
        """Logits (rows, vocab) with the addends of these rows' requests."""
        if not requests:
            return logits
        key = tuple((row, request.number) for row, request in requests.items())
        if self._last is None or self._last[0] != key:
            self._requests = {
                one.number: self._requests.get(one.number) or self._made(one) for one in requests.values()
            }
            tokens, addends = zip(*self._requests.values(), strict=True)
            counts = torch.tensor([len(own) for own in tokens])
            rows = torch.tensor(list(requests)).repeat_interleave(counts)
            on_device = [to_device(tensor, logits.device) for tensor in (rows, torch.cat(tokens), torch.cat(addends))]
            self._last = key, on_device[0], on_device[1], on_device[2]
        _, rows, ids, values = self._last
        return logits.index_put((rows, ids), values, accumulate=True)

    def _made(self, request: Request[object]) -> tuple[Tensor, Tensor]:
        addends = self._of(request)
        return torch.tensor(list(addends), dtype=torch.long), torch.tensor(list(addends.values()), dtype=torch.float)
