"""Chat completions and their chunks, OpenAI's; `mossvl` adds the media as the model saw them, and timings."""

import json
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from mossvl.queries.results import Result
from mossvl.server.answers import REASONS, seen, usage_of
from mossvl.server.exchange import Caller, Exchange
from mossvl.server.reading import Asked, Reader
from mossvl.server.schemas.chat import ChatRequest
from mossvl.server.streams import DONE
from mossvl.server.tools import deltas
from mossvl.tools.calls import CallReader, message_of
from mossvl.tools.definitions import Tools


class ChatExchange(Exchange[ChatRequest]):
    """A chat completion with its `n` answers, whole or in chunks."""

    form = ChatRequest
    done: ClassVar[bytes] = DONE

    def __init__(self, request: ChatRequest, caller: Caller) -> None:
        super().__init__(request, caller)
        request_id = request.request_id or caller.request_id
        self._head = {"id": f"chatcmpl-{request_id}", "created": int(time.time()), "model": caller.model}
        self._tools: Tools | None = None
        self._calls: list[CallReader] = []

    @property
    def stream(self) -> bool:
        return bool(self.request.stream)

    def asked(self, reader: Reader) -> list[Asked]:
        asked = reader.read(self.request)
        self._tools = asked.tools
        return [asked]

    def whole(self, results: Sequence[Result]) -> bytes:
        """Return the completion as JSON; many log-probabilities make this slow."""
        (result,) = results
        choices = []
        for index, answer in enumerate(result.answers):
            reader = CallReader.of(self._tools)
            message = message_of([*reader.push(answer.text), *reader.finish()])
            choice = {
                "index": index,
                "message": message | {"refusal": None},
                "finish_reason": _reason(answer.finish_reason, reader),
                "logprobs": None if answer.logprobs is None else self.caller.tokens.logprobs(answer.logprobs),
            }
            choices.append(choice)
        cost: dict[str, Any] = {"usage": usage_of(result.usage), "mossvl": seen(result)}
        if result.prompt_logprobs is not None:
            cost["prompt_logprobs"] = self.caller.tokens.prompt_logprobs(result.prompt_logprobs)
        return json.dumps(self._head | {"object": "chat.completion", "choices": choices} | cost).encode()

    def opening(self) -> list[dict[str, Any]]:
        self._calls = [CallReader.of(self._tools) for _ in self.readers]
        first = {"role": "assistant", "content": ""}
        return [self._piece([self._choice(index, first)]) for index in range(len(self._calls))]

    def news(self) -> list[dict[str, Any]]:
        pieces = []
        for index, (reader, calls) in enumerate(zip(self.readers, self._calls, strict=True)):
            news = reader.news()
            read = calls.push(news.text) + (calls.finish() if news.reason else [])
            logprobs = self.caller.tokens.logprobs(news.drawn) if news.drawn else None
            for delta in deltas(read) or [{"content": ""}] * bool(news.drawn):
                pieces.append(self._piece([self._choice(index, delta, logprobs)]))
                logprobs = None
            if news.reason:
                pieces.append(self._piece([self._choice(index, {}, reason=_reason(news.reason, calls))]))
        return pieces

    def closing(self, results: Sequence[Result]) -> list[dict[str, Any]]:
        """Return a chunk of token counts, if the client asked for it."""
        options, (result,) = self.request.stream_options, results
        if options is None or not options.include_usage:
            return []
        return [self._piece([]) | {"usage": usage_of(result.usage), "mossvl": seen(result)}]

    def _piece(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        piece = self._head | {"object": "chat.completion.chunk", "choices": choices}
        options = self.request.stream_options
        return piece | ({"usage": usage_of(self.handle.usage_now)} if options and options.continuous else {})

    @staticmethod
    def _choice(
        index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _reason(reason: str, reader: CallReader) -> str:
    """OpenAI's `finish_reason` of an answer that was read to its end."""
    return "tool_calls" if reader.count and reason == "stop" else REASONS[reason]
