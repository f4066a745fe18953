"""Chat completions and their chunks in OpenAI's format; `mossvl` adds the media as the model saw them, and timings."""

import json
import time
from dataclasses import asdict
from typing import Any

from mossvl.queries.handle import Handle
from mossvl.queries.results import Result, TokenLogprobs, Usage

REASONS = {"stop": "stop", "length": "length"}
"""OpenAI's `finish_reason` for ours; any other reason is an error."""


class Tokens:
    """Texts and bytes of single tokens, for log-probabilities.

    Args:
        tokenizer: a byte-level BPE: each character of a token stands for a byte.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._added = tokenizer, set(tokenizer.added_tokens_decoder)
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in printable]
        self._bytes = {chr(byte): byte for byte in printable}
        self._bytes |= {chr(256 + place): byte for place, byte in enumerate(others)}

    def described(self, token: int, logprob: float) -> dict[str, Any]:
        name = str(self._tokenizer.convert_ids_to_tokens(token))
        encoded = [self._bytes[character] for character in name if character in self._bytes]
        whole = len(encoded) == len(name) and token not in self._added
        content = bytes(encoded) if whole else name.encode()
        return {"token": content.decode(errors="replace"), "logprob": logprob, "bytes": list(content)}

    def logprobs(self, drawn: list[TokenLogprobs]) -> dict[str, Any]:
        return {
            "content": [
                {
                    **self.described(one.token, one.logprob),
                    "top_logprobs": [self.described(token, logprob) for token, logprob in one.top],
                }
                for one in drawn
            ]
        }


class Completion:
    """A completion with its `n` answers, whole or in chunks.

    Args:
        request_id: of the request.
        usage: end a stream with a chunk of token counts.
    """

    def __init__(self, request_id: str, model: str, handle: Handle, tokens: Tokens, usage: bool) -> None:
        self.handle = handle
        self._tokens, self._usage = tokens, usage
        self._head = {"id": f"chatcmpl-{request_id}", "created": int(time.time()), "model": model}
        count = len(handle.drafts)
        self._told = [0] * count
        self._ended = [False] * count

    def whole(self, result: Result) -> bytes:
        """Return the completion of a successful query as JSON; many log-probabilities make this slow."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "finish_reason": REASONS[answer.finish_reason],
                "logprobs": None if answer.logprobs is None else self._tokens.logprobs(answer.logprobs),
            }
            for index, answer in enumerate(result.answers)
        ]
        cost = {"usage": usage_of(result.usage), "mossvl": seen(result)}
        return json.dumps(self._head | {"object": "chat.completion", "choices": choices} | cost).encode()

    def opening(self) -> list[dict[str, Any]]:
        """Return the first chunks of a stream, which have a role and no text."""
        pieces = range(len(self.handle.drafts))
        return [self._piece([self._choice(index, {"role": "assistant", "content": ""})]) for index in pieces]

    def news(self) -> list[dict[str, Any]]:
        """Return chunks of what was generated since the last call."""
        pieces = []
        for index, draft in enumerate(self.handle.drafts):
            if self._ended[index]:
                continue
            reason = draft.finish_reason
            text, drawn = self.handle.take(index), draft.logprobs[self._told[index] :]
            self._told[index] += len(drawn)
            if text or drawn:
                logprobs = self._tokens.logprobs(drawn) if drawn else None
                pieces.append(self._piece([self._choice(index, {"content": text}, logprobs)]))
            if reason in REASONS:
                self._ended[index] = True
                pieces.append(self._piece([self._choice(index, {}, reason=REASONS[reason])]))
        return pieces

    def closing(self, result: Result) -> list[dict[str, Any]]:
        """Return the last chunk of a successful stream, with its usage, if the client asked for it."""
        if not self._usage:
            return []
        return [self._piece([]) | {"usage": usage_of(result.usage), "mossvl": seen(result)}]

    def _piece(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head | {"object": "chat.completion.chunk", "choices": choices}

    @staticmethod
    def _choice(
        index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def usage_of(usage: Usage) -> dict[str, Any]:
    """Return token counts in OpenAI's format; prompt tokens are text plus vision tokens, cached ones are text only."""
    prompt = usage.prompt_tokens + usage.vision_tokens
    details = {
        "cached_tokens": usage.cached_tokens,
        "text_tokens": usage.prompt_tokens,
        "vision_tokens": usage.vision_tokens,
    }
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage.new_tokens,
        "total_tokens": prompt + usage.new_tokens,
        "prompt_tokens_details": details,
    }


def seen(result: Result) -> dict[str, Any]:
    """Return each medium as the model saw it (sizes in pixels, timestamps in seconds), and timings in seconds."""
    return {"media": [asdict(medium) for medium in result.media], "timings": asdict(result.timings)}
