"""Penalties of tokens that a request has seen: every prompt and every drawn token is counted once."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mossvl.device.inputs import to_device
from mossvl.scheduling.request import Request

LARGEST = 1e6
"""Upper bound of penalties and temperatures: larger ones have the same effect, but overflow float32."""
MOST_DROPPED = 4
"""Tokens in flight, at most, that a request drops when it is parked; were there more, all would be counted anew."""


@dataclass
class Counted:
    """What is counted of the request in a batch slot.

    Attributes:
        tenant: number of the request, and how often it was preempted.
        turns: see `Request.turns`.
        prompts, answer: number of its prompts, and of its known tokens when its turn began.
        draws: number of tokens that it has drawn since then.
        newest: the last of these: (tokens of a step, row).
    """

    tenant: tuple[int, int]
    turns: int
    prompts: int
    answer: int
    draws: int = 0
    newest: deque[tuple[Tensor, int]] = field(default_factory=lambda: deque(maxlen=MOST_DROPPED))

    @classmethod
    def of(cls, request: Request[object]) -> "Counted":
        context, tenant = request.context, (request.number, request.preemptions)
        return cls(tenant, request.turns, len(context.prompts), len(context.answer))


class Penalties:
    """Repetition, presence and frequency penalties of the requests in a batch.

    Args:
        slots: number of batch slots, without that of padding rows.
    """

    def __init__(self, vocab_size: int, slots: int, device: torch.device) -> None:
        self.vocab_size, self.slots, self.device = vocab_size, slots, device
        self._counted: dict[int, Counted] = {}
        self._made: tuple[Tensor, Tensor, Tensor] | None = None

    def apply(self, logits: Tensor, requests: Sequence[Request[object]]) -> Tensor:
        """Logits (n, vocab), float32, of n requests with their penalties."""
        prompt, answer, _ = self._tables
        for request in requests:
            if request.params.penalises:
                self._catch_up(request)
        slots = to_device(torch.tensor([request.slot for request in requests]), logits.device)
        params = [request.params for request in requests]
        repetition, presence, frequency = (
            to_device(torch.tensor([min(getattr(one, name), LARGEST) for one in params]), logits.device)[:, None]
            for name in ("repetition_penalty", "presence_penalty", "frequency_penalty")
        )
        counts = answer[slots]
        seen = prompt[slots] | (counts > 0)
        scaled = torch.where(logits > 0, logits / repetition, logits * repetition)
        logits = torch.where(seen, scaled, logits)
        return logits - presence * (counts > 0) - frequency * counts

    def count(self, tokens: Tensor, requests: Sequence[Request[object]]) -> None:
        """Count the tokens (n,) that n requests draw."""
        slots = to_device(torch.tensor([request.slot for request in requests]), tokens.device)
        self._add(slots, tokens, 1)
        for row, request in enumerate(requests):
            if request.params.penalises:
                counted = self._counted[request.slot]
                counted.draws += 1
                counted.newest.append((tokens, row))

    def forget(self, request: Request[object]) -> None:
        """Count a request's tokens anew at its next draw."""
        self._counted.pop(request.slot, None)

    @property
    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """(slots + 1, vocab) each: tokens in prompts, bool; their counts in answers, int32; spared tokens, bool."""
        if self._made is None:
            shape = self.slots + 1, self.vocab_size
            kinds = torch.bool, torch.int32, torch.bool
            prompt, answer, spared = (torch.zeros(shape, dtype=kind, device=self.device) for kind in kinds)
            self._made = prompt, answer, spared
        return self._made

    def _catch_up(self, request: Request[object]) -> None:
        """Count what a request has been given, and take back what it has dropped, since it was last counted."""
        counted, now = self._counted.get(request.slot), Counted.of(request)
        if counted is not None and (counted.tenant, counted.turns) == (now.tenant, now.turns):
            return
        self._counted[request.slot] = now
        if counted is None or counted.tenant != now.tenant:
            self._begin(request)
            return
        dropped = counted.answer + counted.draws - now.answer
        if dropped > len(counted.newest):
            self._begin(request)
            return
        if dropped > 0:
            tokens = torch.stack([tokens[row] for tokens, row in list(counted.newest)[-dropped:]])
            self._add(torch.full_like(tokens, request.slot), tokens, -1)
        self._add_prompts(request, counted.prompts)

    def _begin(self, request: Request[object]) -> None:
        prompt, answer, spared = self._tables
        prompt[request.slot] = spared[request.slot] = False
        if request.spared is not None:
            spared[request.slot, self._ids(sorted(request.spared.tokens))] = True
        self._add_prompts(request, 0)
        answer[request.slot] = torch.bincount(self._ids(request.context.answer), minlength=self.vocab_size)
        answer[request.slot, spared[request.slot]] = 0

    def _add_prompts(self, request: Request[object], first: int) -> None:
        """Count a request's prompts from one on."""
        for prompt in request.context.prompts[first:]:
            ids = prompt.tokens if request.spared is None else list(request.spared.others(prompt.tokens))
            self._tables[0][request.slot, self._ids(ids)] = True

    def _add(self, slots: Tensor, tokens: Tensor, times: int) -> None:
        _, answer, spared = self._tables
        places = slots, tokens.clamp(min=0)
        answer.index_put_(places, times * (~spared[places]).int(), accumulate=True)

    def _ids(self, tokens: Sequence[int]) -> Tensor:
        return to_device(torch.tensor(tokens, dtype=torch.long), self.device)
