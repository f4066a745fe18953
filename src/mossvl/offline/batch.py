"""Several queries answered together, on the plain forward pass.

Samples are packed, and the cache keeps each by itself, so queries join and leave the batch at any token.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice

import torch
from torch import Tensor

from mossvl.model.cache import MossVLCache
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.offline.request import Request

MAX_RUNNING = 16
"""Queries that generate at the same time; the others wait in order, so that memory stays bounded."""

Event = tuple[Request, str, bool]
"""A request, the text that became certain, and whether the request has ended."""


def run(model: MossVLLMHeadModel, requests: Iterable[Request], max_running: int = MAX_RUNNING) -> Iterator[Event]:
    """Answer requests together; a request that fails ends alone, and its `error` says why.

    Args:
        requests: taken one by one, as places become free.

    Yields:
        events; every request ends exactly once.
    """
    batch = Batch(model)
    waiting = iter(requests)
    while True:
        joining = list(islice(waiting, max_running - len(batch.running)))
        for request in joining:
            yield batch.join(request)
        if batch.running:
            yield from batch.step()
        elif not joining:
            return


class Batch:
    """Requests that generate in step, one token each at a time.

    Attributes:
        running: the requests, in the order of the cache's samples.
    """

    def __init__(self, model: MossVLLMHeadModel) -> None:
        self.model = model
        self.running: list[Request] = []
        self._last: list[int] = []
        self._cache = MossVLCache(model.config.text_config)
        ends = model.generation_config.eos_token_id
        ends = model.config.text_config.eos_token_id if ends is None else ends
        self._ends = set(ends) if isinstance(ends, list | tuple) else {ends}

    def join(self, request: Request) -> Event:
        """Load and encode a request's media as they are decoded, run its prompt, choose its first token."""
        with _blaming(request):
            request.check()
            cache, logits = self._prefill(request)
            token = request.choose(logits)
            chunk, done = request.accept(token, self._ends)
            if not done:
                self._cache.extend(cache)
                self.running.append(request)
                self._last.append(token)
            return request, chunk, done
        return request, request.text.finish(), True

    def step(self) -> Iterator[Event]:
        """One token further for every running request."""
        logits = self._forward()
        kept: list[int] = []
        for row, request in enumerate(self.running):
            chunk, done = self._advance(request, row, logits)
            if not done:
                kept.append(row)
            if chunk or done:
                yield request, chunk, done
        if len(kept) < len(self.running):
            self._cache.select(kept)
            self.running = [self.running[row] for row in kept]
            self._last = [self._last[row] for row in kept]

    def _advance(self, request: Request, row: int, logits: Tensor | Exception) -> tuple[str, bool]:
        with _blaming(request):
            request.check()
            if isinstance(logits, Exception):
                raise logits
            self._last[row] = request.choose(logits[row])
            return request.accept(self._last[row], self._ends)
        return request.text.finish(), True

    @torch.inference_mode()
    def _prefill(self, request: Request) -> tuple[MossVLCache, Tensor]:
        """A request's own cache, and the logits (vocab,) of its first token."""
        model = self.model.model
        weight = model.visual.patch_embed.proj.weight
        items = request.load(weight.device, weight.dtype, model.config.text_config.max_position_embeddings)
        parts = []
        with closing(items):
            planned = next(items)
            for pixel_values, grid_thw in items:
                request.check()
                parts.append(model.encode_vision(pixel_values, grid_thw))
        request.check()
        cache = MossVLCache(model.config.text_config)
        output = self.model(
            input_ids=planned.input_ids[None].to(self._device),
            grid_thw=planned.grid_thw,
            vision_embeds=torch.cat(parts) if parts else None,
            past_key_values=cache,
            logits_to_keep=1,
        )
        return cache, output.logits[0, -1]

    @torch.inference_mode()
    def _forward(self) -> Tensor | Exception:
        """Logits (requests, vocab) of the next tokens, or why there are none."""
        try:
            last = torch.tensor(self._last, device=self._device)[:, None]
            return self.model(input_ids=last, past_key_values=self._cache).logits[:, -1]
        except Exception as error:
            return error

    @property
    def _device(self) -> torch.device:
        return self.model.model.language_model.embed_tokens.weight.device


@contextmanager
def _blaming(request: Request) -> Iterator[None]:
    """What goes wrong inside, a cancellation or a time-out included, ends this request and no other."""
    try:
        yield
    except Exception as error:
        request.error = error
