"""Prompts that go to the model as they are."""

import torch

from mossvl.errors import PromptError
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.prompt import IMAGE_TOKEN
from mossvl.queries.query import PlainPrompt
from mossvl.sources.memory import Budget
from mossvl.sources.source import Loading, Planned


class PlainLoad(Loading):
    """Tokenises a plain prompt; it has no media."""

    def __init__(self, prompt: PlainPrompt, processor: MossVLProcessor, budget: Budget) -> None:
        super().__init__(processor, budget)
        self.prompt, self.processor = prompt, processor

    def _load(self, first: int | None) -> None:
        """Report the prompt.

        Raises:
            PromptError: it is empty, or has an image token, for which there is no image.
        """
        if first is not None:  # There are no frames to report once more.
            return
        content = self.prompt.content
        text, ids = (content, self._ids(content)) if isinstance(content, str) else ("", list(content))
        if not ids:
            raise PromptError("the prompt is empty; expected a text or token ids")
        image = self.processor.image_token_id
        if image in ids:
            raise PromptError(f"the prompt has the token {image} ({IMAGE_TOKEN}), but a plain prompt has no images")
        self._report(Planned(text, torch.tensor(ids, dtype=torch.long), [], [], [], streams=False))

    def _ids(self, text: str) -> list[int]:
        return list(self.processor.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
