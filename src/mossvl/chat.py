"""A conversation with a model."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Protocol

from mossvl.offline.query import SessionQuery
from mossvl.options import SamplingParams
from mossvl.processing.system_prompt import SystemPrompt, with_system_prompt
from mossvl.queries.handle import Handle
from mossvl.queries.query import Message, Query, QueryLike
from mossvl.queries.results import Result


class Answering(Protocol):
    """What answers a conversation's queries."""

    def submit(
        self, query: QueryLike, params: SamplingParams | None = None, *, session: Sequence[Message] = ()
    ) -> Handle: ...


class Chat:
    """A conversation of turns. A turn that fails or is cancelled leaves the conversation as it was.

    The conversation begins with `system_prompt`, or with the fixed one that `thinking_mode`, `system_prompt_type` and
    `use_default_system_prompt` choose (see `SystemPrompt`), unless its first turn has a system prompt of its own.

    The engine keeps no state of a conversation: the next turn finds the earlier ones in the prefix cache.

    Attributes:
        messages: all turns and answers so far.
        result: result of the last turn.
    """

    def __init__(
        self, llm: Answering, system_prompt: str | None = None, params: SamplingParams | None = None, **chosen: Any
    ) -> None:
        self.llm, self.params = llm, params
        self.system = {"system_prompt": system_prompt, **chosen}
        SystemPrompt(**self.system).text(video=False)  # Check before the first turn.
        self.messages: list[Message] = []
        self.result: Result | None = None

    def ask(self, prompt: str, params: SamplingParams | None = None, **query: Any) -> Result:
        """Take a turn, and return its result.

        Args:
            query: further keys of the turn's query: `images`, `videos`, `media_kwargs`, `generate_kwargs`.

        Raises:
            MossVLError: the query is malformed or has failed.
        """
        checked, handle = self._begin(prompt, params, query)
        return self._end(checked, handle)

    def stream(self, prompt: str, params: SamplingParams | None = None, **query: Any) -> Iterator[str]:
        """As `ask`, but yield the answer in chunks; the turn counts once the last chunk was read."""
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
        """Forget all turns."""
        self.messages = []

    def _begin(self, prompt: str, params: SamplingParams | None, query: dict[str, Any]) -> tuple[Query, Handle]:
        checked = SessionQuery.from_dict({"prompt": prompt, **with_system_prompt(query, self.system)})
        return checked, self.llm.submit(checked, params or self.params, session=self.messages)

    def _end(self, query: Query, handle: Handle) -> Result:
        self.result = handle.result()
        self.messages = query.session_after(self.messages, self.result.text)
        return self.result
