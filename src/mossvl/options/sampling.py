"""Generation options of a query: names, defaults and limits, defined once for Python, command line and data files."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from mossvl.errors import OptionError, shown
from mossvl.options.checks import (
    Count,
    CountFrom0,
    Number,
    Positive,
    Switch,
    Whole,
    check_options,
    mapping,
    named_options,
    number,
    present,
    text,
    whole,
)

TOO_DEEP = "it is nested too deeply; use a schema of fewer levels"

LARGEST_BIAS = 100.0
"""Larger biases have the same effect as this one."""

MIN_SCALE = 1e-3
"""Smallest temperature or penalty: dividing logits by less would exceed float32's range."""


Penalty = Annotated[float, Number(least=-2, most=2)]


def _texts(name: str, given: Any) -> tuple[str, ...]:
    """Return texts, given as one text or a list, as a tuple."""
    texts = (given,) if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise OptionError(f"{{{name}=}} must be a text or a list of texts, none of them empty", given={name: given})
    return tuple(texts)


def _tokens(name: str, given: Any) -> tuple[int, ...]:
    if not isinstance(given, list | tuple):
        raise OptionError(f"{{{name}=}} must be a list of token ids", given={name: given})
    return tuple(whole(name, one, least=0) for one in given)


def _biases(name: str, given: Any) -> dict[int, float]:
    """Return biases by token id, clamped to `LARGEST_BIAS`; they are given as a dict or its JSON."""
    with suppress(ValueError, RecursionError):
        given = json.loads(given) if isinstance(given, str) else given
    if not isinstance(given, Mapping):
        raise OptionError(f"{{{name}=}} must be a dict of biases by token id, or its JSON", given={name: given})
    biases = {}
    for token, bias in given.items():
        if isinstance(token, str) and token.isascii() and token.isdecimal() and len(token) < 20:
            token = int(token)
        bias = number(f"{name}[{shown(token, 40)}]", bias)
        biases[whole(f"{name}: token id", token, least=0)] = max(-LARGEST_BIAS, min(LARGEST_BIAS, bias))
    return biases


def _salt(name: str, given: Any) -> str:
    """Return a text that is not empty and can be hashed."""
    with suppress(UnicodeEncodeError):
        if isinstance(given, str) and given.encode():
            return given
    raise OptionError(f"{{{name}=}} must be a text, and not empty", given={name: given})


def _schema(name: str, given: Any) -> str:
    """Return a schema, which is given as a dict or as JSON, as JSON."""
    try:
        schema = json.loads(given) if isinstance(given, str) else given
        if isinstance(schema, Mapping):
            return json.dumps(schema)
    except RecursionError:
        raise OptionError(f"{{{name}}} cannot be used: {TOO_DEEP}", option=name) from None
    except (TypeError, ValueError) as error:
        raise OptionError(f"{{{name}=}} is not JSON ({error}); expected a JSON schema", given={name: given}) from error
    raise OptionError(f"{{{name}=}} must be a dict, or its JSON", given={name: given})


@named_options("generation option")
@dataclass(frozen=True)
class SamplingParams:
    """How the tokens of an answer are sampled, and when the answer ends.

    Attributes:
        max_new_tokens: maximum number of tokens of the answer.
        temperature: sampling temperature; below 0.001, decoding is greedy.
        top_k: sample from this number of likeliest tokens; 0 or -1 for all.
        top_p: sample from the likeliest tokens with this total probability.
        min_p: sample from tokens with this fraction of the likeliest one's probability, or more.
        repetition_penalty: above 1, tokens of the prompt and the answer become less likely (as in CTRL).
        presence_penalty: subtracted from the logits of tokens that the answer contains; from -2 to 2.
        frequency_penalty: subtracted from a token's logit for each of its occurrences in the answer; from -2 to 2.
        priority: waiting queries are admitted in ascending order, FIFO among equals; of running queries, the highest
            number is preempted first. A query waits for as long as others with lower numbers arrive.
        cache_salt: the prefix cache serves only queries of the same salt.
        seed: makes sampling reproducible, whatever the batch; any integer (modulo 2^63).
        stop: stop strings, which end the answer and are not part of it.
        stop_token_ids: stop tokens, which end the answer and are not part of it, beside the model's end tokens.
        min_tokens: number of tokens before which no end token, stop token or stop string ends the answer; a form that
            allows only the end does.
        logit_bias: added to the logits of these tokens, by id, before penalties; clamped to -100 … 100.
        logprobs: report the log-probability of each token, and this number of likeliest alternatives with theirs, up to
            20; None for no log-probabilities.
        prompt_logprobs: the same for the tokens of the prompt, which are computed even if the prefix cache has them.
        n: number of answers.
        ignore_eos: continue after the model's end tokens.
        skip_special_tokens: leave special tokens out of the answer's text.
        json_schema: constrains the answer to JSON of this schema, a dict or its JSON; {"type": "object"} is any object,
            but an object with `properties` has these alone, unless the schema has `additionalProperties`.
        regex: constrains the answer to this regular expression (Rust's syntax), which the whole answer matches.
        choice: constrains the answer to one of these texts.
        grammar: constrains the answer to this grammar, in Lark's syntax or GBNF (`root ::= …`).

    Raises:
        OptionError: an option is unknown or out of range, or the form of the answer cannot be used.
    """

    max_new_tokens: Count = 1024
    temperature: Annotated[float, Number()] = 0.0
    top_k: Annotated[int, Whole(-1)] = 50
    top_p: Annotated[float, Number(above=0, most=1)] = 1.0
    min_p: Annotated[float, Number(least=0, most=1)] = 0.0
    repetition_penalty: Annotated[float, Number(above=MIN_SCALE)] = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    priority: Annotated[int, Whole(-math.inf)] = 0
    cache_salt: Annotated[str, _salt] | None = None
    seed: Annotated[int, Whole(-math.inf)] | None = None
    stop: Annotated[tuple[str, ...], _texts] = ()
    stop_token_ids: Annotated[tuple[int, ...], _tokens] = ()
    min_tokens: CountFrom0 = 0
    logit_bias: Annotated[Mapping[int, float], _biases] | None = None
    logprobs: Annotated[int, Whole(0, most=20)] | None = None
    prompt_logprobs: Annotated[int, Whole(0, most=20)] | None = None
    n: Annotated[int, Whole(most=128)] = 1
    ignore_eos: Switch = False
    skip_special_tokens: Switch = True
    json_schema: Annotated[str | Mapping[str, Any], _schema] | None = None
    regex: Annotated[str, text] | None = None
    choice: Annotated[tuple[str, ...], _texts] | None = None
    grammar: Annotated[str, text] | None = None

    FORMS: ClassVar = ("json_schema", "regex", "choice", "grammar")
    """Options that constrain the form of the answer."""

    def __post_init__(self) -> None:
        check_options(self)
        object.__setattr__(self, "top_k", max(0, self.top_k))
        if self.min_tokens > self.max_new_tokens:
            raise OptionError(
                f"{{min_tokens=}} is more than the {self.max_new_tokens} tokens that the answer may have; lower it",
                given={"min_tokens": self.min_tokens},
            )
        self._check_form()

    def _check_form(self) -> None:
        """Raise an `OptionError` if the form of the answer cannot be used."""
        given = self._forms
        if not given:
            return
        if len(given) > 1 or self.ignore_eos:
            several = [*given, *["ignore_eos"] * self.ignore_eos]
            first, *others = (f"{{{name}}}" for name in several)
            raise OptionError(
                f"{first} and {', '.join(others)} exclude each other; give one of them",
                given={name: getattr(self, name) for name in several},
            )
        from mossvl.forms.grammar import problem_of

        try:
            reason = problem_of(str(self.form))
        except RecursionError:
            reason = TOO_DEEP
        except ValueError as error:  # Too deep a schema, a lone surrogate, or a number that is not JSON.
            reason = TOO_DEEP if "recursion limit" in str(error) else str(error)
        if reason:
            name, value = given[0], getattr(self, given[0])
            raise OptionError(f"{{{name}=}} cannot be used: {reason}", given={name: value})

    @property
    def form(self) -> str | None:
        """The form of the answer, as a grammar of llguidance; None if the answer is free.

        Raises:
            ValueError: the form is malformed.
        """
        if self.free:
            return None
        from mossvl.forms import languages

        (name,) = self._forms
        return str(getattr(languages, name)(getattr(self, name)))

    @property
    def _forms(self) -> list[str]:
        """The options of `FORMS` that are given, by name."""
        return [name for name in self.FORMS if getattr(self, name) is not None]

    @property
    def greedy(self) -> bool:
        return self.temperature < MIN_SCALE

    @property
    def plain(self) -> bool:
        """Whether decoding is greedy, with unchanged logits, no log-probabilities and no form."""
        changed = self.penalises or self.logit_bias or self.min_tokens
        return self.greedy and not changed and self.logprobs is None and self.free

    @property
    def free(self) -> bool:
        """Whether the answer may have any form."""
        return not self._forms

    @property
    def penalises(self) -> bool:
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @classmethod
    def from_dict(cls, given: Mapping[str, Any] | None, **defaults: Any) -> Self:
        """Make parameters of `generate_kwargs`; a None value is the default."""
        given = {} if given is None else mapping("generate_kwargs", given)
        return cls(**defaults | present(given))


@named_options("generation option")
@dataclass(frozen=True)
class GenerationOptions(SamplingParams):
    """`SamplingParams` with the published names and defaults, and further options of a query.

    Attributes:
        do_sample: sample tokens; otherwise decoding is greedy, whatever the temperature.
        vision_chunked_length: frames that the vision tower encodes at a time; affects memory, not answers.
        timeout: time limit of the query, in seconds.
    """

    temperature: Annotated[float, Number()] = 1.0
    do_sample: Switch = False
    vision_chunked_length: Count = 64
    timeout: Positive | None = None

    @property
    def greedy(self) -> bool:
        return not self.do_sample or super().greedy
