"""Completions of plain prompts and their chunks, OpenAI's."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from mossvl.errors import OptionError
from mossvl.options import GenerationOptions
from mossvl.queries.query import PlainPrompt
from mossvl.queries.results import Answer, Result, TokenLogprobs, Usage
from mossvl.server.answers import REASONS, total, usage_of
from mossvl.server.drafts import News
from mossvl.server.errors import check_limit
from mossvl.server.exchange import Caller, Exchange
from mossvl.server.parameters import params_of
from mossvl.server.reading import Asked, Reader, check_supported
from mossvl.server.schemas.completions import UNSUPPORTED, CompletionRequest
from mossvl.server.streams import DONE

DEFAULT_TOKENS = 16
Scored = tuple[int, float | None, dict[int, float]]
"""A token, its log-probability, and the likeliest tokens with theirs."""


class CompletionExchange(Exchange[CompletionRequest]):
    """Answers to one or several prompts, `n` to each, whole or in chunks."""

    form = CompletionRequest
    prompt: ClassVar[str] = "prompt"
    done: ClassVar[bytes] = DONE

    def __init__(self, request: CompletionRequest, caller: Caller) -> None:
        super().__init__(request, caller)
        self._head = {"id": f"cmpl-{caller.request_id}", "created": int(time.time()), "model": caller.model}
        given = request.prompt
        several = isinstance(given, list) and not isinstance(given[0], int)
        self._prompts: list[Any] = list(given) if several else [given]
        self._length = DEFAULT_TOKENS if request.max_tokens is None else request.max_tokens
        self._offsets = Counter[int]()  # By the answers' indices.

    @property
    def stream(self) -> bool:
        return bool(self.request.stream)

    def asked(self, reader: Reader) -> list[Asked]:
        request, config = self.request, reader.config
        check_supported(request, UNSUPPORTED)
        if request.echo and request.logprobs is not None and request.stream:
            raise OptionError(
                "{logprobs} of an echoed prompt come with a whole answer; leave out stream", option="logprobs"
            )
        if not self._length and not request.echo:
            raise OptionError(
                "max_tokens=0 needs echo: true; otherwise there is nothing to answer", option="max_tokens"
            )
        texts = [prompt for prompt in self._prompts if isinstance(prompt, str)]
        check_limit("number of prompts", len(self._prompts), config.max_queue, "--max-queue", "prompt")
        check_limit("number of characters", sum(map(len, texts)), config.max_text, "--max-text", "prompt")
        own = {
            "n": request.n,
            "stop": request.stop,
            "logprobs": request.logprobs,
            "prompt_logprobs": request.logprobs if request.echo else None,
        }
        params = params_of(request.model_copy(update={"max_tokens": self._length or 1}), config, "max_tokens", **own)
        generation = GenerationOptions(timeout=min(request.timeout or config.timeout, config.timeout))
        return [Asked(PlainPrompt(_plain(prompt), generation), params) for prompt in self._prompts]

    def whole(self, results: Sequence[Result]) -> bytes:
        """Return the completions as JSON; many log-probabilities make this slow."""
        choices = [
            self._choice(
                index, answer.text, self._echoed(prompt, result) + _scored(answer.logprobs), answer.finish_reason
            )
            for index, (prompt, result, answer) in enumerate(self._answers(results))
        ]
        found = self._head | {
            "object": "text_completion",
            "choices": choices,
            "usage": self._usage(result.usage for result in results),
        }
        return json.dumps(found).encode()

    def _answers(self, results: Sequence[Result]) -> Iterator[tuple[Any, Result, Answer]]:
        """Yield every answer with its prompt; without tokens if none were wanted."""
        for prompt, result in zip(self._prompts, results, strict=True):
            for answer in result.answers:
                kept = answer if self._length else Answer("", [], "length", [])
                yield prompt, result, replace(kept, text=self._echo(prompt) + kept.text)

    def _echo(self, prompt: Any) -> str:
        """Return the text with which an answer begins."""
        if not self.request.echo:
            return ""
        return prompt if isinstance(prompt, str) else self.caller.tokens.text(prompt)

    def _echoed(self, prompt: Any, result: Result) -> list[Scored]:
        """Return the prompt's tokens, where they are echoed with log-probabilities."""
        if result.prompt_logprobs is None:
            return []
        ids = self.caller.tokens.ids(prompt) if isinstance(prompt, str) else prompt
        return [
            (token, told[token].logprob, {one: known.logprob for one, known in told.items()})
            if told
            else (token, None, {})
            for token, told in zip(ids, result.prompt_logprobs, strict=True)
        ]

    def _usage(self, used: Iterable[Usage]) -> dict[str, Any]:
        whole = total(used)
        return usage_of(whole if self._length else replace(whole, new_tokens=0))

    # --- the stream ----------------------------------------------------------------------------------------------

    def opening(self) -> list[dict[str, Any]]:
        if not self.request.echo:
            return []
        count = self.request.n or 1
        echoes = [self._echo(prompt) for prompt in self._prompts for _ in range(count)]
        return [self._piece(self._choice(index, text, [], None)) for index, text in enumerate(echoes)]

    def news(self) -> list[dict[str, Any]]:
        pieces = []
        for index, reader in enumerate(self.readers):
            news = reader.news()
            if not self._length:
                news = News(reason=news.reason and "length")
            if news.pieces or news.reason:
                pieces.append(self._piece(self._choice(index, news.text, _scored(news.drawn), news.reason)))
        return pieces

    def closing(self, results: Sequence[Result]) -> list[dict[str, Any]]:
        """Return a chunk of token counts, if the client asked for it."""
        options = self.request.stream_options
        if options is None or not options.include_usage:
            return []
        return [self._piece() | {"usage": self._usage(result.usage for result in results)}]

    def _piece(self, *choices: dict[str, Any]) -> dict[str, Any]:
        piece = self._head | {"object": "text_completion", "choices": list(choices)}
        options = self.request.stream_options
        if options is None or not options.continuous:
            return piece
        return piece | {"usage": self._usage(handle.usage_now for handle in self.handles)}

    def _choice(self, index: int, text: str, scored: list[Scored], reason: str | None) -> dict[str, Any]:
        wanted = self.request.logprobs is not None
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(index, scored) if wanted else None,
            "finish_reason": reason and REASONS[reason],
        }

    def _logprobs(self, index: int, scored: list[Scored]) -> dict[str, Any]:
        """Return log-probabilities; `text_offset` counts characters of an answer, an echoed prompt included."""
        name = self.caller.tokens.name
        offsets = []
        for token, _, _ in scored:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(name(token))
        return {
            "tokens": [name(token) for token, _, _ in scored],
            "token_logprobs": [logprob for _, logprob, _ in scored],
            "top_logprobs": [
                None if logprob is None else {name(one): known for one, known in best.items()}
                for _, logprob, best in scored
            ],
            "text_offset": offsets,
        }


def _plain(prompt: Any) -> str | tuple[int, ...]:
    return prompt if isinstance(prompt, str) else tuple(prompt)


def _scored(drawn: Sequence[TokenLogprobs] | None) -> list[Scored]:
    return [(one.token, one.logprob, dict(one.top) | {one.token: one.logprob}) for one in drawn or ()]
