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


class ChatExchange(Exchange[ChatRequest]):
    """A chat completion with its `n` answers, whole or in chunks."""

    form = ChatRequest
    done: ClassVar[bytes] = DONE

    def __init__(self, request: ChatRequest, caller: Caller) -> None:
        super().__init__(request, caller)
        request_id = request.request_id or caller.request_id
        self._head = {"id": f"chatcmpl-{request_id}", "created": int(time.time()), "model": caller.model}
        self._told: list[int] = []
        self._ended: list[bool] = []

    @property
    def stream(self) -> bool:
        return bool(self.request.stream)

    def asked(self, reader: Reader) -> list[Asked]:
        return [reader.read(self.request)]

    def whole(self, results: Sequence[Result]) -> bytes:
        """Return the completion as JSON; many log-probabilities make this slow."""
        (result,) = results
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "finish_reason": REASONS[answer.finish_reason],
                "logprobs": None if answer.logprobs is None else self.caller.tokens.logprobs(answer.logprobs),
            }
            for index, answer in enumerate(result.answers)
        ]
        cost: dict[str, Any] = {"usage": usage_of(result.usage), "mossvl": seen(result)}
        if result.prompt_logprobs is not None:
            cost["prompt_logprobs"] = self.caller.tokens.prompt_logprobs(result.prompt_logprobs)
        return json.dumps(self._head | {"object": "chat.completion", "choices": choices} | cost).encode()

    def opening(self) -> list[dict[str, Any]]:
        count = len(self.handle.drafts)
        self._told, self._ended = [0] * count, [False] * count
        return [self._piece([self._choice(index, {"role": "assistant", "content": ""})]) for index in range(count)]

    def news(self) -> list[dict[str, Any]]:
        pieces = []
        for index, draft in enumerate(self.handle.drafts):
            if self._ended[index]:
                continue
            reason = draft.finish_reason
            text, drawn = self.handle.take(index), draft.logprobs[self._told[index] :]
            self._told[index] += len(drawn)
            if text or drawn:
                logprobs = self.caller.tokens.logprobs(drawn) if drawn else None
                pieces.append(self._piece([self._choice(index, {"content": text}, logprobs)]))
            if reason in REASONS:
                self._ended[index] = True
                pieces.append(self._piece([self._choice(index, {}, reason=REASONS[reason])]))
        return pieces

    def closing(self, results: Sequence[Result]) -> list[dict[str, Any]]:
        """Return a chunk of token counts, if the client asked for it."""
        options, (result,) = self.request.stream_options, results
        if options is None or not options.include_usage:
            return []
        return [self._piece([]) | {"usage": usage_of(result.usage), "mossvl": seen(result)}]

    def _piece(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head | {"object": "chat.completion.chunk", "choices": choices}

    @staticmethod
    def _choice(
        index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
