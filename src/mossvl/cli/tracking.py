"""What a command wants to tell about an answer beside its text."""

from collections.abc import Generator, Iterator
from typing import Any

import torch

from mossvl.offline.batch import was_cancelled
from mossvl.offline.request import Request
from mossvl.processing.processor import PlannedPrompt


class TrackedRequest(Request):
    """A request that remembers its prompt, and whose loading can be ended from outside.

    Attributes:
        planned: tokens and media of the prompt, once they are known; its media are closed when the request has ended.
        context: the most tokens that prompt and answer may have together.
    """

    planned: PlannedPrompt | None = None
    context = 0
    _loading: Iterator[Any] | None = None

    def load(self, device: torch.device, dtype: torch.dtype, context: int) -> Iterator[Any]:
        self.context = context
        self._loading = super().load(device, dtype, context)
        for item in self._loading:
            if isinstance(item, PlannedPrompt):
                self.planned = item
            yield item

    def close(self) -> None:
        """Let the thread that loads media end, if there still is one."""
        if isinstance(self._loading, Generator):
            self._loading.close()

    @property
    def prompt_tokens(self) -> int:
        return 0 if self.planned is None else len(self.planned.input_ids)

    @property
    def finish(self) -> str:
        """Why the answer ended: "stop" (by itself or at a stop text), "length", "cancelled" or "error"."""
        if self.error is not None:
            return "cancelled" if was_cancelled(self) else "error"
        if self.text.stopped:
            return "stop"
        room = min(self.query.generation.max_new_tokens, self.context - self.prompt_tokens)
        return "length" if len(self.tokens) >= room else "stop"
