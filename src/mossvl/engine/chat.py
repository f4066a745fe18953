"""Conversations: turns that go on from each other."""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from mossvl.queries.handle import Handle
from mossvl.queries.query import Message, Query
from mossvl.queries.results import Result
from mossvl.options import SamplingParams
from mossvl.processing.system_prompt import SystemPrompt, with_system_prompt

if TYPE_CHECKING:
    from mossvl.engine.interface import MossVL


class Chat:
    """A conversation. A turn that fails or is cancelled leaves it as it was; turns come one after the other.

    It begins with `system_prompt`, or with the fixed one that `thinking_mode`, `system_prompt_type` and
    `use_default_system_prompt` choose (see `SystemPrompt`), unless its first turn says something of it itself.

    The engine keeps no state for it: what earlier turns have in common with the next one is found in its caches.

    Attributes:
        messages: all turns and answers so far.
        result: of the last turn.
    """

    def __init__(
        self, llm: "MossVL", system_prompt: str | None = None, params: SamplingParams | None = None, **chosen: Any
    ) -> None:
        self.llm, self.params = llm, params
        self.system = {"system_prompt": system_prompt, **chosen}
        SystemPrompt(**self.system).text(video=False)  # refuses here what cannot be used
        self.messages: list[Message] = []
        self.result: Result | None = None

    def ask(self, prompt: str, params: SamplingParams | None = None, **query: Any) -> Result:
        """A turn, and its answer.

        Args:
            query: what a query may have beside its prompt: `images`, `videos`, `media_kwargs`, `generate_kwargs`.

        Raises:
            MossVLError: it could not be answered.
        """
        checked, handle = self._begin(prompt, params, query)
        return self._end(checked, handle)

    def stream(self, prompt: str, params: SamplingParams | None = None, **query: Any) -> Iterator[str]:
        """As `ask`, piece by piece; the turn counts once the answer has been read to its end."""
        checked, handle = self._begin(prompt, params, query)
        yield from handle
        self._end(checked, handle)

    async def aask(self, prompt: str, params: SamplingParams | None = None, **query: Any) -> Result:
        """As `ask`, for asyncio."""
        checked, handle = self._begin(prompt, params, query)
        await handle.ending()
        return self._end(checked, handle)

    async def astream(self, prompt: str, params: SamplingParams | None = None, **query: Any) -> AsyncIterator[str]:
        """As `stream`, for asyncio."""
        checked, handle = self._begin(prompt, params, query)
        async for chunk in handle:
            yield chunk
        self._end(checked, handle)

    def reset(self) -> None:
        """Begin anew."""
        self.messages = []

    def _begin(self, prompt: str, params: SamplingParams | None, query: dict[str, Any]) -> tuple[Query, Handle]:
        checked = Query.from_dict({"prompt": prompt, **with_system_prompt(query, self.system)})
        return checked, self.llm.submit(checked, params or self.params, session=self.messages)

    def _end(self, query: Query, handle: Handle) -> Result:
        self.result = handle.result()
        self.messages = query.session_after(self.messages, self.result.text)
        return self.result
