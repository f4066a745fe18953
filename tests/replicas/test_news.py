"""What a replica tells of its queries: coded, told piece by piece, and taken in by a handle elsewhere; no processes."""

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mossvl.errors import GenerationTimeout, MossVLError, OptionError
from mossvl.options import SamplingParams
from mossvl.queries.handle import Handle
from mossvl.queries.results import Logprob, SeenMedium, Timings, TokenLogprobs
from mossvl.replicas.news import End, Facts, Followed, Growth, pack, sendable, take_in, unpack


class Letters:
    """A tokenizer whose tokens are characters."""

    def decode(self, token_ids, *, skip_special_tokens):
        return "".join(map(chr, token_ids))

    def encode(self, text, *, add_special_tokens):
        return list(map(ord, text))


NUMBERS = st.integers(0, 2**32 - 1)
FLOATS = st.floats(allow_nan=False)
SCORES = st.builds(TokenLogprobs, NUMBERS, FLOATS, st.lists(st.tuples(NUMBERS, FLOATS), max_size=3))
FINISHES = st.sampled_from([None, "stop", "length"])


@st.composite
def growths(draw):
    tokens = draw(st.lists(NUMBERS, max_size=5))
    times = [draw(FLOATS) for _ in tokens]
    logprobs = [draw(SCORES) for _ in tokens] if draw(st.booleans()) else []
    return Growth(draw(NUMBERS), draw(st.integers(0, 127)), tokens, times, logprobs, draw(FINISHES))


FACTS = st.builds(
    Facts, NUMBERS, st.text(max_size=9), NUMBERS, NUMBERS, NUMBERS, st.just([SeenMedium("image", 1, 2, 3, 4, 5, None)])
)
TOLD = st.none() | st.lists(st.none() | st.dictionaries(NUMBERS, st.builds(Logprob, FLOATS, NUMBERS)), max_size=3)
ENDS = st.builds(End, NUMBERS, st.builds(Timings, total=FLOATS), st.none(), TOLD)


@given(st.lists(growths() | FACTS | ENDS, max_size=9))
def test_what_is_packed_is_unpacked_facts_before_growths_before_ends(news):
    order = [Facts, Growth, End]
    assert list(unpack(pack(news))) == sorted(news, key=lambda one: order.index(type(one)))


def test_a_token_of_each_of_many_answers_takes_few_bytes_of_one_message():
    step = [Growth(number, 0, [70_000 + number], [1e5]) for number in range(256)]
    assert len(pack(step)) < 30 * 256


def test_errors_keep_type_message_and_advice():
    error = GenerationTimeout("too slow", setting="MediaLimits.timeout", advice="; raise {}")
    (told,) = unpack(pack([End(1, error=sendable(error))]))
    assert type(told.error) is GenerationTimeout and str(told.error) == "too slow; raise MediaLimits.timeout"
    option = sendable(OptionError("top_k is odd", option="top_k"))
    (told,) = unpack(pack([End(1, error=option)]))
    assert told.error.option == "top_k"


def test_an_unexpected_error_that_may_not_be_pickled_is_told_by_its_message():
    class Odd(Exception):
        def __reduce__(self):
            raise TypeError

    assert type(sendable(Odd("what?"))) is MossVLError and str(sendable(Odd("what?"))) == "Odd: what?"


# --- a handle, and its copy elsewhere --------------------------------------------------------------------------------

STEPS = st.lists(st.sampled_from(["token", "facts", "tell", "token", "finish", "half"]), max_size=40)


@given(STEPS, st.integers(1, 3), st.booleans(), st.integers(0, 2**16), st.booleans())
def test_the_copy_is_the_handle_whenever_it_is_told(steps, answers, scored, seed, fails):
    params = SamplingParams(n=answers, logprobs=1 if scored else None)
    handle, copy = Handle(params, Letters()), Handle(params, Letters())
    followed = Followed(7, handle)

    def tell():
        for one in unpack(pack(followed.news())):
            assert one.query == 7
            take_in(copy, one)
            if isinstance(one, End):
                copy.end(one.error)

    for number, step in enumerate(steps):
        draft = handle.drafts[(seed + number) % answers]
        if step in ("token", "half") and draft.finish_reason is None:
            draft.tokens.append(97 + number % 26)
            if step == "half":  # The engine's thread is in the middle of adding a token.
                tell()
            draft.times.append(number / 7)
            if scored:
                draft.logprobs.append(TokenLogprobs(draft.tokens[-1], -1 / (1 + number), [(1, -0.5)]))
        elif step == "facts":
            handle.prompt_tokens, handle.input_text = number, "x" * number
            handle.media = [SeenMedium("video", 9, 9, 8, 8, number, (0.5, math.pi))]
        elif step == "finish":
            draft.finish_reason = "length"
        elif step == "tell":
            tell()
            assert [one.tokens for one in copy.drafts] == [one.tokens for one in handle.drafts]
    handle.timings = Timings(total=3.5)
    handle.end(MossVLError("it failed") if fails else None)
    tell()
    assert copy.ended and str(copy.error) == str(handle.error)
    assert replace(copy.result_now, error=None) == replace(handle.result_now, error=None)
    assert [one.times for one in copy.drafts] == [one.times for one in handle.drafts]


def test_a_token_whose_time_and_score_are_still_to_be_added_is_told_with_them():
    handle = Handle(SamplingParams(logprobs=0), Letters())
    followed, draft = Followed(1, handle), handle.drafts[0]
    draft.tokens.append(97)
    assert list(followed.news()) == []
    draft.times.append(1.0)
    assert list(followed.news()) == []
    draft.logprobs.append(TokenLogprobs(97, -1.0, []))
    assert list(followed.news()) == [Growth(1, 0, [97], [1.0], draft.logprobs)]
    assert list(followed.news()) == []
