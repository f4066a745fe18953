"""Per-query options: their names, defaults and limits, defined once for Python, the command line and data files."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from numbers import Real
from typing import Any, Literal, Self, TypeVar, get_args

from mossvl.errors import OptionError
from mossvl.names import nearest

T = TypeVar("T")

MIN_PIXELS, MAX_PIXELS = 4_096, 16_777_216
"""Published bounds for the area of an image or of a video frame."""
PIXEL_BUDGET = 201_326_592
"""Published area that several images, or all frames, of one prompt share."""
MAX_FPS = 100_000
Timestamps = Literal["actual", "published"]
"""Which times a prompt tells of frames; see `MediaOptions`. The first one is the default."""
JSON_SPACE = " ?"
"""Between the parts of JSON: a space at most, so that no answer runs on in white space."""
TOO_DEEP = "json_schema is nested too deeply; a schema of fewer levels can be used"
MIN_SCALE = 1e-3
"""Below this, dividing logits by a temperature or a penalty takes them out of float32's range."""


def present(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a mapping holds: a null key is as if it were not there, since exports of tables give every row every key."""
    return {name: value for name, value in given.items() if value is not None}


def check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise an `OptionError` for the first unknown option; it names the known one that is near, or else all of them."""
    known = sorted(known)
    for name in given:
        if name not in known:
            near = nearest(str(name), known)
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(known)}"
            raise OptionError(f"unknown {what} {name!r:.200}; {hint}")


def named_options(what: str) -> Callable[[type[T]], type[T]]:
    """A decorator of dataclasses: an unknown argument is an `OptionError` that names the nearest known one."""

    def decorate(cls: type[T]) -> type[T]:
        init = cls.__init__

        @wraps(init)
        def checked(self: T, *given: Any, **named: Any) -> None:
            check_names(named, (option.name for option in fields(cls)), what)  # type: ignore[arg-type]
            init(self, *given, **named)

        cls.__init__ = checked  # type: ignore[method-assign, assignment]
        return cls

    return decorate


def shown(value: Any, most: int = 200) -> str:
    """A value as messages tell it; some have no text: integers of thousands of digits, deeply nested lists."""
    try:
        return f"{value!r:.{most}}"
    except (ValueError, RecursionError):
        return f"<{type(value).__name__}>"


def number(name: str, value: Any, above: float = -math.inf, most: float = math.inf) -> float:
    """`value` as a finite number greater than `above` and at most `most`, or an `OptionError`."""
    try:
        checked = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:
        checked = math.inf
    if not math.isfinite(checked):
        kind = "a number, not a text" if isinstance(value, str) else "a finite number"
        raise OptionError(f"{name}={shown(value, 40)} must be {kind}")
    if checked <= above or checked > most:
        upper = f" and at most {most:g}" if math.isfinite(most) else ""
        raise OptionError(f"{name}={shown(value, 40)} must be more than {above:g}{upper}")
    return checked


def whole(name: str, value: Any, least: float = 1, most: float = math.inf) -> int:
    """`value` as an integer of at least `least` and at most `most`, or an `OptionError`."""
    if number(name, value) % 1:
        raise OptionError(f"{name}={shown(value, 40)} must be a whole number")
    if value < least or value > most:
        raise OptionError(
            f"{name}={shown(value, 40)} must be " + (f"at least {least}" if value < least else f"at most {most}")
        )
    return int(value)


def choice(name: str, value: Any, known: Sequence[str]) -> str:
    """`value` if it is one of those known, or an `OptionError`."""
    if value not in known:
        raise OptionError(f"{name}={value!r:.40} must be {' or '.join(map(repr, known))}")
    return str(value)


@named_options("media option")
@dataclass(frozen=True)
class MediaOptions:
    """How the media of one query are sampled and resized; None leaves it to the checkpoint's processor.

    Attributes:
        min_pixels, max_pixels: bounds for the area of an image or of one video frame.
        multi_image_max_pixels: area that several images of one prompt share.
        video_max_pixels: area that all frames of all videos of one prompt share.
        video_fps: frames sampled per second.
        min_frames, max_frames: bounds for their number; `max_frames` is shared by the videos of one prompt.
        timestamps: "actual" (the default): where frames are not evenly spaced, they are sampled evenly in time, and
            told with the times from when on they are shown. "published": as the published code does, which counts
            frames and divides by their average rate, and so tells wrong times of such clips. Where frames are evenly
            spaced, both are the same.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    multi_image_max_pixels: int | None = None
    video_max_pixels: int | None = None
    video_fps: float | None = None
    min_frames: int | None = None
    max_frames: int | None = None
    timestamps: Timestamps | None = None

    OLDER_NAMES = {"video_minlen": "min_frames", "video_maxlen": "max_frames"}
    OF_PARTS = {
        "image": ("min_pixels", "max_pixels"),
        "video": ("min_pixels", "max_pixels", "video_fps", "min_frames", "max_frames", "timestamps"),
    }
    """What a single medium of a prompt may have of its own, as keys of its part of a message."""

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if value is not None:
                object.__setattr__(self, option.name, self._checked(option.name, value))
        for least, most in (("min_pixels", "max_pixels"), ("min_frames", "max_frames")):
            low, high = getattr(self, least), getattr(self, most)
            if low is not None and high is not None and low > high:
                raise OptionError(f"{least}={low} is more than {most}={high}")

    @staticmethod
    def _checked(name: str, value: Any) -> Any:
        if name == "timestamps":
            return choice(name, value, get_args(Timestamps))
        return number(name, value, above=0, most=MAX_FPS) if name == "video_fps" else whole(name, value)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any] | None) -> Self:
        """From `media_kwargs`. None values are defaults; the older names `video_minlen`, `video_maxlen` are known."""
        given = {} if given is None else _mapping("media_kwargs", given)
        renamed = {cls.OLDER_NAMES.get(name, name): value for name, value in present(given).items()}
        return cls(**renamed)

    def over(self, others: "MediaOptions") -> "MediaOptions":
        """These options, and where they leave something open, the others."""
        own = {option.name: getattr(self, option.name) for option in fields(self)}
        return replace(others, **{name: value for name, value in own.items() if value is not None})


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
        seed: makes drawn answers repeatable, whatever runs beside; any integer (modulo 2^63).
        stop: texts that end the answer; they are not part of it.
        stop_token_ids: tokens that end the answer, beside the model's own; they are not part of it.
        logprobs: for each token, how many of the likeliest alternatives are reported with their log-probabilities (0:
            the token's own alone); None for none.
        n: answers to be drawn.
        ignore_eos: go on after the model's own end token.
        json_schema: the answer is JSON of this schema, a dict or its JSON; {"type": "object"} is any object.
        regex: the whole answer matches this regular expression (Rust's syntax).
    """

    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = field(default=())
    stop_token_ids: tuple[int, ...] = field(default=())
    logprobs: int | None = None
    n: int = 1
    ignore_eos: bool = False
    json_schema: str | Mapping[str, Any] | None = None
    regex: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.ignore_eos, bool):
            raise OptionError(f"ignore_eos={shown(self.ignore_eos)} must be true or false")
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, list | tuple) or not all(isinstance(text, str) and text for text in stop):
            raise OptionError(f"stop={shown(self.stop)} must be a text or a list of texts, none of them empty")
        ids = self.stop_token_ids
        if not isinstance(ids, list | tuple):
            raise OptionError(f"stop_token_ids={shown(ids)} must be a list of token ids")
        self._set(
            max_new_tokens=whole("max_new_tokens", self.max_new_tokens),
            temperature=number("temperature", self.temperature),
            top_k=max(0, whole("top_k", self.top_k, least=-1)),
            top_p=number("top_p", self.top_p, above=0, most=1),
            min_p=number("min_p", self.min_p, above=-MIN_SCALE, most=1),
            repetition_penalty=number("repetition_penalty", self.repetition_penalty, above=MIN_SCALE),
            presence_penalty=number("presence_penalty", self.presence_penalty, above=-math.nextafter(2, 3), most=2),
            frequency_penalty=number("frequency_penalty", self.frequency_penalty, above=-math.nextafter(2, 3), most=2),
            seed=None if self.seed is None else whole("seed", self.seed, least=-math.inf),
            stop=tuple(stop),
            stop_token_ids=tuple(whole("stop_token_ids", one, least=0) for one in ids),
            logprobs=None if self.logprobs is None else whole("logprobs", self.logprobs, least=0, most=20),
            n=whole("n", self.n, most=128),
            json_schema=_schema(self.json_schema),
        )
        self._check_form()

    def _check_form(self) -> None:
        """Raise an `OptionError` if the form of the answer is none."""
        if self.free:
            return
        if (self.json_schema is not None and self.regex is not None) or self.ignore_eos:
            raise OptionError("json_schema, regex and ignore_eos exclude each other; give one of them")
        from mossvl.scheduling.grammar import problem_of

        if self.json_schema is None and not isinstance(self.regex, str):
            raise OptionError(f"regex={shown(self.regex)} must be a text")
        try:
            reason = problem_of(str(self.grammar))
        except ValueError as error:  # It is nested too deeply, or has characters or numbers that are none.
            reason = TOO_DEEP if "recursion limit" in str(error) else str(error)
        if reason:
            name = "regex" if self.json_schema is None else "json_schema"
            raise OptionError(f"{name}={shown(getattr(self, name))} cannot be used: {reason}")

    @property
    def grammar(self) -> str | None:
        """The form of the answer, as llguidance takes it; None if it is free."""
        if self.free:
            return None
        from llguidance import LLMatcher

        if self.json_schema is not None:
            return LLMatcher.grammar_from_json_schema(str(self.json_schema), {"whitespace_pattern": JSON_SPACE})
        return LLMatcher.grammar_from_regex(str(self.regex))

    def _set(self, **checked: Any) -> None:
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def greedy(self) -> bool:
        return self.temperature < MIN_SCALE

    @property
    def plain(self) -> bool:
        """The likeliest token is drawn, and nothing more is asked."""
        return self.greedy and not self.penalises and self.logprobs is None and self.free

    @property
    def free(self) -> bool:
        """The answer may have any form."""
        return self.json_schema is None and self.regex is None

    @property
    def penalises(self) -> bool:
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @classmethod
    def from_dict(cls, given: Mapping[str, Any] | None, **defaults: Any) -> Self:
        """From `generate_kwargs`; None values are defaults."""
        given = {} if given is None else _mapping("generate_kwargs", given)
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

    temperature: float = 1.0
    do_sample: bool = False
    vision_chunked_length: int = 64
    timeout: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.do_sample, bool):
            raise OptionError(f"do_sample={shown(self.do_sample)} must be true or false")
        self._set(
            vision_chunked_length=whole("vision_chunked_length", self.vision_chunked_length),
            timeout=None if self.timeout is None else number("timeout", self.timeout, above=0),
        )

    @property
    def greedy(self) -> bool:
        return not self.do_sample or super().greedy


def _schema(given: Any) -> str | None:
    """A schema as JSON."""
    if given is None:
        return None
    try:
        schema = json.loads(given) if isinstance(given, str) else given
        if isinstance(schema, Mapping):
            return json.dumps(schema)
    except RecursionError:
        raise OptionError(TOO_DEEP) from None
    except (TypeError, ValueError) as error:
        raise OptionError(f"json_schema={shown(given)} is not JSON: {error}") from error
    raise OptionError(f"json_schema={shown(given)} must be a dict, or its JSON")


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise OptionError(f"{name}={shown(value, 40)} must be a dict of options")
    return value


def pick(given: T | None, default: T) -> T:
    """What a query says, or else the default."""
    return default if given is None else given


def bounds(what: str, options: MediaOptions, low: int, high: int) -> dict[str, int]:
    """min_… and max_… of a query, or the defaults; a bound that is given alone moves the default of the other."""
    least, most = getattr(options, f"min_{what}"), getattr(options, f"max_{what}")
    if least is None:
        least = min(low, pick(most, high))
    return {f"min_{what}": least, f"max_{what}": max(least, high) if most is None else most}
