"""What answers of every API tell: tokens with log-probabilities, token counts, media as the model saw them, timings."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple
from typing import Any

from mossvl.queries.results import Logprob, Result, TokenLogprobs, Usage

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

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a plain prompt."""
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of a plain prompt, with its special tokens."""
        return str(self._tokenizer.decode(ids))

    def name(self, token: int) -> str:
        """Return the text of one token, in which a part of a character is U+FFFD."""
        return str(self.described(token, 0.0)["token"])

    def described(self, token: int, logprob: float) -> dict[str, Any]:
        name = str(self._tokenizer.convert_ids_to_tokens(token))
        encoded = [self._bytes[character] for character in name if character in self._bytes]
        whole = len(encoded) == len(name) and token not in self._added
        content = bytes(encoded) if whole else name.encode()
        return {"token": content.decode(errors="replace"), "logprob": logprob, "bytes": list(content)}

    def logprobs(self, drawn: Sequence[TokenLogprobs]) -> dict[str, Any]:
        return {
            "content": [
                {
                    **self.described(one.token, one.logprob),
                    "top_logprobs": [self.described(token, logprob) for token, logprob in one.top],
                }
                for one in drawn
            ]
        }

    def prompt_logprobs(self, told: list[dict[int, Logprob] | None]) -> list[dict[str, Any] | None]:
        """Return log-probabilities of a prompt's tokens in vLLM's format, by token id."""

        def shown(one: dict[int, Logprob]) -> dict[str, Any]:
            return {
                str(token): {"logprob": logprob, "rank": rank, "decoded_token": self._tokenizer.decode([token])}
                for token, (logprob, rank) in one.items()
            }

        return [None if one is None else shown(one) for one in told]


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


def total(used: Iterable[Usage]) -> Usage:
    """Return the token counts of several queries together."""
    counts = [astuple(one) for one in used]
    return Usage(*map(sum, zip(*counts, strict=True)))


def seen(result: Result) -> dict[str, Any]:
    """Return each medium as the model saw it (sizes in pixels, timestamps in seconds), and timings in seconds."""
    return {"media": [asdict(medium) for medium in result.media], "timings": asdict(result.timings)}
