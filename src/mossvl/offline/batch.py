"""Several queries answered together, on the plain forward pass.

Samples are packed, and the cache keeps each by itself, so queries join and leave the batch at any token. Media are
loaded in threads and encoded part by part between steps, so that one long video does not hold up the others' tokens.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from mossvl.model.cache import MossVLCache
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.offline.request import Request

logger = logging.getLogger(__name__)

MAX_RUNNING = 16
"""Queries that load or generate at the same time; the others wait in order, so that memory stays bounded."""
MAX_LOADING = 4
"""Queries whose media are loaded at the same time."""
IDLE_SECONDS = 0.005
"""How long to wait for media when there is nothing else to do."""

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
    try:
        while True:
            free = min(max_running - len(batch.running), MAX_LOADING) - len(batch.loading)
            for request in islice(waiting, max(free, 0)):
                batch.admit(request)
            if not batch.loading and not batch.running:
                return
            yield from batch.load()
            yield from batch.step()
    finally:
        for loading in batch.loading:
            loading.request.close()


@dataclass
class Loading:
    """A request whose media are still coming."""

    request: Request
    vision: list[Tensor] = field(default_factory=list)
    """Encoded parts, (vision tokens, hidden) each."""


class Batch:
    """Requests that generate in step, one token each at a time, and requests that will join them.

    Attributes:
        running: the requests that generate, in the order of the cache's samples.
    """

    def __init__(self, model: MossVLLMHeadModel) -> None:
        self.model = model
        self.loading: list[Loading] = []
        self.running: list[Request] = []
        self._last: list[int] = []
        self._cache = MossVLCache(model.config.text_config)
        ends = model.generation_config.eos_token_id
        ends = model.config.text_config.eos_token_id if ends is None else ends
        self._ends = set(ends) if isinstance(ends, list | tuple) else {ends}

    def admit(self, request: Request) -> None:
        """Begin to load a request's media."""
        request.start(self.model.config.text_config.max_position_embeddings)
        self.loading.append(Loading(request))

    def load(self) -> Iterator[Event]:
        """Encode what has been loaded since the last call, a part a request; run prompts that are complete."""
        for loading in list(self.loading):
            chunk, done = self._load(loading)
            if done or loading.request.loaded:
                self.loading.remove(loading)
                loading.request.close()
                yield loading.request, chunk, done

    def _load(self, loading: Loading) -> tuple[str, bool]:
        request = loading.request
        with _blaming(request):
            request.check()
            item = request.take(0 if self.running else IDLE_SECONDS)
            if item is not None:
                self._encode(loading, *item)
            if not request.loaded:
                return "", False
            cache, logits = self._prefill(loading)
            token = request.choose(logits)
            chunk, done = request.accept(token, self._ends)
            if not done:
                self._cache.extend(cache)
                self.running.append(request)
                self._last.append(token)
            return chunk, done
        return request.text.finish(), True

    def step(self) -> Iterator[Event]:
        """One token further for every running request."""
        if not self.running:
            return
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
    def _encode(self, loading: Loading, patches: Tensor, grid_thw: Tensor) -> None:
        weight = self.model.model.visual.patch_embed.proj.weight
        pixel_values = loading.request.processor.normalise(patches, weight.device, weight.dtype)
        loading.vision.append(self.model.model.encode_vision(pixel_values, grid_thw))

    @torch.inference_mode()
    def _prefill(self, loading: Loading) -> tuple[MossVLCache, Tensor]:
        """A request's own cache, and the logits (vocab,) of its first token."""
        planned = loading.request.planned
        assert planned is not None
        cache = MossVLCache(self.model.config.text_config)
        output = self.model(
            input_ids=planned.input_ids[None].to(self._device),
            grid_thw=planned.grid_thw,
            vision_embeds=torch.cat(loading.vision) if loading.vision else None,
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
        logger.info("query %d failed", request.index, exc_info=True)
        # The error is kept for as long as the request; what its frames hold (pixels, caches) must not be.
        request.error = error.with_traceback(None)
