"""Streamed text is the decoded text."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mossvl.queries.text_stream import TextStream

ids = st.lists(st.integers(0, 491), max_size=40)


def stream(processor, tokens, stop=()):
    text = TextStream(processor.tokenizer, stop)
    pieces = []
    for token in tokens:
        pieces.append(text.push([token]))
        if text.stopped:
            break
    pieces.append(text.finish())
    return text, pieces


def test_any_tokens_join_to_their_decoding(processor):
    @given(ids)
    def check(tokens):
        text, pieces = stream(processor, tokens)
        assert "".join(pieces) == text.text == processor.tokenizer.decode(tokens, skip_special_tokens=True)

    check()


def test_characters_are_never_cut(processor):
    @given(st.text(max_size=12))
    def check(written):
        tokens = processor.tokenizer(written)["input_ids"]
        whole = processor.tokenizer.decode(tokens, skip_special_tokens=True)
        _, pieces = stream(processor, tokens)
        assert "".join(pieces) == whole
        assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in whole

    check()


def test_nothing_of_a_stop_text_or_after_it_is_released(processor):
    @given(st.text("abc ", max_size=20), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3))
    def check(written, stops):
        tokens = processor.tokenizer(written)["input_ids"]
        text, pieces = stream(processor, tokens, stops)
        expected, stopped = written, False
        for count in range(len(tokens) + 1):  # the answer ends with the first token that completes a stop string
            so_far = processor.tokenizer.decode(tokens[:count])
            found = [so_far.find(stop) for stop in stops if stop in so_far]
            if found:
                expected, stopped = so_far[: min(found)], True
                break
        assert "".join(pieces) == text.text == expected
        assert text.stopped == stopped

    check()


def test_an_answer_that_is_cut_ends_with_a_whole_character(processor):
    @given(st.text(min_size=1, max_size=12), st.data())
    def check(written, data):
        tokens = processor.tokenizer(written)["input_ids"]
        cut = tokens[: data.draw(st.integers(0, len(tokens)))]
        text = TextStream(processor.tokenizer)
        text.push(cut)
        text.finish(cut=True)
        whole = processor.tokenizer.decode(tokens, skip_special_tokens=True)
        assert whole.startswith(text.text)
        assert processor.tokenizer.decode(cut, skip_special_tokens=True).rstrip("\ufffd") == text.text.rstrip("\ufffd")

    check()


def test_the_replacement_character_itself_is_a_character(processor):
    text = TextStream(processor.tokenizer)
    tokens = processor.tokenizer("a\ufffd")["input_ids"]
    assert "".join(text.push([token]) for token in tokens) == "a\ufffd"
    assert text.finish(cut=True) == "" and text.text == "a\ufffd"


@given(cut=st.integers(0, 3))
def test_the_end_of_an_answer_does_not_depend_on_how_its_tokens_came(processor, cut):
    tokens = processor.tokenizer("a\ufffd")["input_ids"] + processor.tokenizer("\u00e9")["input_ids"][:1]
    text = TextStream(processor.tokenizer)
    text.push(tokens[:cut])
    text.push(tokens[cut:])
    text.finish(cut=True)
    assert text.text == "a\ufffd"


@given(tokens=st.lists(st.integers(0, 255), max_size=24), cuts=st.sets(st.integers(1, 23)))
def test_what_is_told_does_not_depend_on_how_the_tokens_came(processor, tokens, cuts):
    """Bytes in any order: whole characters, parts of some, and what is part of none."""
    single, together = TextStream(processor.tokenizer), TextStream(processor.tokenizer)
    for token in tokens:
        single.push([token])
    ends = [*sorted(cut for cut in cuts if cut < len(tokens)), len(tokens)]
    for start, end in pairwise([0, *ends]):
        together.push(tokens[start:end])
    assert together.text == single.text


def test_a_stop_text_counts_where_it_ends_after_the_least_length(processor):
    words = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=2)

    @given(st.text("abc ", max_size=20), words, st.integers(0, 12), st.integers(1, 5))
    def check(written, stops, least, together):
        tokens = processor.tokenizer(written)["input_ids"]
        exempt = len(processor.tokenizer.decode(tokens[:least]))
        expected, stopped = written, False
        for count in range(least, len(tokens) + 1):
            so_far = processor.tokenizer.decode(tokens[:count])
            found = [so_far.find(stop, max(0, exempt - len(stop) + 1)) for stop in stops]
            if any(start >= 0 for start in found):
                expected, stopped = so_far[: min(start for start in found if start >= 0)], True
                break
        text = TextStream(processor.tokenizer, stops, least)
        for start in range(0, len(tokens), together):
            text.push(tokens[start : start + together])
        text.finish()
        assert text.stopped == stopped
        assert text.text == expected or together > 1

    check()


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
BROKEN = '<tool_call>{"name": "add", "arguments": </tool_call>'
UNKNOWN = '<tool_call>{"name": "other", "arguments": {}}</tool_call>'


@pytest.mark.parametrize(
    ("written", "kept", "stop_string"),
    [
        (f"a {CALL} b {CALL}", f"a {CALL}", None),
        (f"{BROKEN}a{UNKNOWN}b", f"{BROKEN}a{UNKNOWN}b", None),
        (f"{BROKEN}{UNKNOWN}{CALL}b", f"{BROKEN}{UNKNOWN}{CALL}", None),
        (f"{CALL}x", CALL, None),
        (f"ax{CALL}", "a", "x"),
    ],
)
def test_where_one_call_ends_an_answer_it_is_kept_whole_and_what_is_no_call_ends_nothing(
    processor, written, kept, stop_string
):
    tokens = processor.tokenizer(written)["input_ids"]
    for size in (1, 3, len(tokens)):
        text = TextStream(processor.tokenizer, ["x"], calls={"add"})
        for start in range(0, len(tokens), size):
            text.push(tokens[start : start + size])
        text.finish()
        assert (text.text, text.stopped, text.stop_string) == (kept, kept != written, stop_string)


def test_no_call_within_the_least_tokens_ends_an_answer(processor):
    tokens = processor.tokenizer(CALL * 3)["input_ids"]
    text = TextStream(processor.tokenizer, least=len(tokens) // 3 + 1, calls={"add"})
    for token in tokens:
        text.push([token])
    assert text.text == CALL * 2 and text.stopped
