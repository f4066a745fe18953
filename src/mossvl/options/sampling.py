"""Generation options of a query: names, defaults and limits, defined once for Python, command line and data files."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from mossvl.errors import OptionError
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
    shown,
    text,
    whole,
)

TOO_DEEP = "json_schema is nested too deeply; a schema of fewer levels can be used"

LARGEST_BIAS = 100.0
"""Beyond, a bias of a token has no other effect."""

MIN_SCALE = 1e-3
"""Below this, dividing logits by a temperature or a penalty takes them out of float32's range."""


Penalty = Annotated[float, Number(above=-math.nextafter(2, 3), most=2)]


def _texts(name: str, given: Any) -> tuple[str, ...]:
    """A text or several."""
    texts = (given,) if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise OptionError(f"{name}={shown(given)} must be a text or a list of texts, none of them empty")
    return tuple(texts)


def _tokens(name: str, given: Any) -> tuple[int, ...]:
    if not isinstance(given, list | tuple):
        raise OptionError(f"{name}={shown(given)} must be a list of token ids")
    return tuple(whole(name, one, least=0) for one in given)


def _biases(name: str, given: Any) -> dict[int, float]:
    """Biases by token id, or their JSON, in which ids are texts; those beyond `LARGEST_BIAS` are cut to it."""
    with suppress(ValueError, RecursionError):
        given = json.loads(given) if isinstance(given, str) else given
    if not isinstance(given, Mapping):
        raise OptionError(f"{name}={shown(given)} must be a dict of biases by token id, or its JSON")
    biases = {}
    for token, bias in given.items():
        if isinstance(token, str) and token.isascii() and token.isdecimal() and len(token) < 20:
            token = int(token)
        bias = number(f"{name}[{shown(token, 40)}]", bias)
        biases[whole(f"a token id of {name}", token, least=0)] = max(-LARGEST_BIAS, min(LARGEST_BIAS, bias))
    return biases


def _salt(name: str, given: Any) -> str:
    """A text that can be hashed."""
    with suppress(UnicodeEncodeError):
        if isinstance(given, str) and given.encode():
            return given
    raise OptionError(f"{name}={shown(given)} must be a text, and not empty")


def _schema(name: str, given: Any) -> str:
    """A schema as JSON."""
    try:
        schema = json.loads(given) if isinstance(given, str) else given
        if isinstance(schema, Mapping):
            return json.dumps(schema)
    except RecursionError:
        raise OptionError(TOO_DEEP) from None
    except (TypeError, ValueError) as error:
        raise OptionError(f"{name}={shown(given)} is not JSON: {error}") from error
    raise OptionError(f"{name}={shown(given)} must be a dict, or its JSON")


@named_options("generation option")
@dataclass(frozen=True)
class SamplingParams:
    """How tokens of an answer are drawn, and when it ends.

    Attributes:
        max_new_tokens: most tokens of the answer.
        temperature: below 1 for less random, above for more random answers; 0 or less (or below 0.001, where it would
            come to the same) means the likeliest token.
        top_k: draw from so many of the likeliest tokens; 0 or -1 for all.
        top_p: draw from the likeliest tokens that make up this probability.
        min_p: draw from tokens at least so likely, compared with the likeliest one.
        repetition_penalty: above 1, tokens of the prompt and of the answer so far become less likely (as in CTRL).
        presence_penalty: subtracted from the logits of tokens that the answer has; between -2 and 2.
        frequency_penalty: subtracted once for each time that the answer has a token; between -2 and 2.
        priority: of two waiting queries, the one with the lower number is admitted first (of equal ones, the earlier),
            and of two running ones, the one with the higher number is preempted first, if memory runs out. A query
            waits for as long as others with lower numbers come.
        cache_salt: the prefix cache serves only queries of the same salt.
        seed: makes drawn answers repeatable, whatever runs beside; any integer (modulo 2^63).
        stop: texts that end the answer; they are not part of it.
        stop_token_ids: tokens that end the answer, beside the model's own; they are not part of it.
        min_tokens: tokens before which no end token, and no stop text, ends the answer; where a form allows nothing
            but the end, it ends all the same.
        logit_bias: added to the logits of these tokens, by id, before penalties; cut to between -100 and 100.
        logprobs: for each token, how many of the likeliest alternatives are reported with their log-probabilities (0:
            the token's own alone); None for none.
        prompt_logprobs: for each token of the prompt, how many of the likeliest tokens are reported with their
            log-probabilities (0: the prompt's own alone); None for none. What the prefix cache has is computed again.
        n: answers to be drawn.
        ignore_eos: go on after the model's own end token.
        skip_special_tokens: leave special tokens out of the answer's text.
        json_schema: the answer is JSON of this schema, a dict or its JSON; {"type": "object"} is any object, but an
            object with `properties` has these alone, unless the schema has `additionalProperties`.
        regex: the whole answer matches this regular expression (Rust's syntax).
        choice: the answer is one of these texts.
        grammar: the answer is of this grammar, in Lark's syntax or GBNF (`root ::= …`).
    """

    max_new_tokens: Count = 1024
    temperature: Annotated[float, Number()] = 0.0
    top_k: Annotated[int, Whole(-1)] = 50
    top_p: Annotated[float, Number(above=0, most=1)] = 1.0
    min_p: Annotated[float, Number(above=-MIN_SCALE, most=1)] = 0.0
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
    """Options that say which form the answer has."""

    def __post_init__(self) -> None:
        check_options(self)
        object.__setattr__(self, "top_k", max(0, self.top_k))
        if self.min_tokens > self.max_new_tokens:
            raise OptionError(
                f"min_tokens={self.min_tokens} is more than max_new_tokens={self.max_new_tokens}; lower it"
            )
        self._check_form()

    def _check_form(self) -> None:
        """Raise an `OptionError` if the form of the answer is none."""
        given = self._forms
        if not given:
            return
        if len(given) > 1 or self.ignore_eos:
            raise OptionError(f"{', '.join(self.FORMS)} and ignore_eos exclude each other; give one of them")
        from mossvl.forms.grammar import problem_of

        try:
            reason = problem_of(str(self.form))
        except RecursionError:
            reason = TOO_DEEP
        except ValueError as error:  # It is nested too deeply, or has characters or numbers that are none.
            reason = TOO_DEEP if "recursion limit" in str(error) else str(error)
        if reason:
            raise OptionError(f"{given[0]}={shown(getattr(self, given[0]))} cannot be used: {reason}")

    @property
    def form(self) -> str | None:
        """The form of the answer, as llguidance takes it; None if it is free.

        Raises:
            ValueError: it is none.
        """
        if self.free:
            return None
        from mossvl.forms import languages

        (name,) = self._forms
        return str(getattr(languages, name)(getattr(self, name)))

    @property
    def _forms(self) -> list[str]:
        """Names of the options of `FORMS` that are given."""
        return [name for name in self.FORMS if getattr(self, name) is not None]

    @property
    def greedy(self) -> bool:
        return self.temperature < MIN_SCALE

    @property
    def plain(self) -> bool:
        """The likeliest token is drawn, and nothing more is asked."""
        changed = self.penalises or self.logit_bias or self.min_tokens
        return self.greedy and not changed and self.logprobs is None and self.free

    @property
    def free(self) -> bool:
        """The answer may have any form."""
        return not self._forms

    @property
    def penalises(self) -> bool:
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @classmethod
    def from_dict(cls, given: Mapping[str, Any] | None, **defaults: Any) -> Self:
        """From `generate_kwargs`; None values are defaults."""
        given = {} if given is None else mapping("generate_kwargs", given)
        return cls(**defaults | present(given))


@named_options("generation option")
@dataclass(frozen=True)
class GenerationOptions(SamplingParams):
    """`SamplingParams` with the published names and defaults, and what belongs to a query beside them.

    Attributes:
        do_sample: draw tokens at random; otherwise the likeliest is taken, whatever the temperature.
        vision_chunked_length: frames that the vision tower encodes at a time; changes memory, not answers.
        timeout: seconds after which the query fails.
    """

    temperature: Annotated[float, Number()] = 1.0
    do_sample: Switch = False
    vision_chunked_length: Count = 64
    timeout: Positive | None = None

    @property
    def greedy(self) -> bool:
        return not self.do_sample or super().greedy
