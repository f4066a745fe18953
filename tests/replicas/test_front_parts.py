"""Parts of the front without sockets: what a request is known by, where responses end, what was said in a session."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import parser
from websockets.frames import Close, Frame, Opcode

from mossvl.server.front.bodies import BrokenResponse, ResponseBody, response_head
from mossvl.server.front.failing import died, is_whole, last_events
from mossvl.server.front.metrics import FrontMetrics
from mossvl.server.front.requests import LONGEST_ANSWER, wish_of
from mossvl.server.front.sockets import FrameReader, Transcript
from mossvl.server.metrics import Metrics

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


def body(*parts, **fields):
    return json.dumps({"messages": [{"role": "user", "content": list(parts)}], **fields}).encode()


def image(url):
    return {"type": "image_url", "image_url": {"url": url}}


def text(words):
    return {"type": "text", "text": words}


# --- what a request is known by --------------------------------------------------------------------------------------

SAME = {
    "chat": [image("upload:file-1")],
    "a string": [{"type": "image_url", "image_url": "upload:file-1"}],
    "after a text": [text('see "url": "upload:file-2" here'), image("upload:file-1")],
}


@pytest.mark.parametrize("parts", SAME.values(), ids=SAME)
def test_the_first_medium_is_the_key_wherever_it_stands(parts):
    assert wish_of(CHAT, body(*parts)).key == wish_of(CHAT, body(image("upload:file-1"), text("why?"))).key


@pytest.mark.parametrize("kind", ["base64", "url", "file"])
def test_anthropics_sources_are_media(kind):
    name = {"base64": "data", "url": "url", "file": "file_id"}[kind]
    one, other = (body({"type": "image", "source": {"type": kind, name: value}}) for value in ("AAAA", "BBBB"))
    assert wish_of("/v1/messages", one).key != wish_of("/v1/messages", other).key


@pytest.mark.parametrize("change", ["length", "begin", "end"])
def test_other_media_have_other_keys(change):
    url = "data:image/png;base64," + "A" * 200_000
    other = {"length": url + "A", "begin": url.replace("A", "B", 1), "end": url[:-1] + "B"}[change]
    assert wish_of(CHAT, body(image(url))).key != wish_of(CHAT, body(image(other))).key


def test_without_a_medium_a_conversation_keeps_the_key_of_its_beginning():
    first = {"role": "user", "content": "one"}
    more = [first, {"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}]
    keys = [wish_of(CHAT, json.dumps({"messages": turns}).encode()).key for turns in ([first], more)]
    assert keys[0] == keys[1] != wish_of(CHAT, body(text("another"))).key


def test_adapters_share_a_medium_but_no_text():
    for part, count in ((image("upload:file-1"), 1), (text("one"), 3)):
        assert len({wish_of(CHAT, body(part, **model)).key for model in ({}, {"model": "a"}, {"model": "b"})}) == count


def test_a_continued_response_names_its_replica():
    for mark, replica in (("r12", 12), ("", None)):
        given = json.dumps({"input": "and?", "previous_response_id": f"resp_{'0f' * 24}{mark}"}).encode()
        assert wish_of(RESPONSES, given).replica == replica


def test_longer_answers_and_texts_are_more_tokens_and_the_bytes_of_a_medium_are_none():
    few = wish_of(CHAT, body(text("a"), max_tokens=10)).tokens
    assert wish_of(CHAT, body(text("a"), max_completion_tokens=500)).tokens == pytest.approx(few + 490, abs=9)
    assert wish_of(CHAT, body(text("a" * 4000), max_tokens=10)).tokens == pytest.approx(few + 1000, abs=9)
    assert wish_of(CHAT, body(text("a"), max_tokens=10**9)).tokens < few + LONGEST_ANSWER
    small, large = (wish_of(CHAT, body(image("data:," + "A" * size))).tokens for size in (10, 1 << 20))
    assert small == large


@pytest.mark.parametrize("place", ["before", "after"])
def test_what_stands_before_or_after_a_large_medium_is_found(place):
    about = {"max_output_tokens": 777, "previous_response_id": f"resp_{'0f' * 24}r3"}
    asked = {"input": [{"role": "user", "content": [image("data:," + "A" * (1 << 20))]}]}
    found = wish_of(RESPONSES, json.dumps(about | asked if place == "before" else asked | about).encode())
    assert found.replica == 3 and found.tokens > 777


@given(
    st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(repr).map(str.encode)
)
def test_no_body_is_too_strange_to_be_routed(given):
    assert wish_of(CHAT, given).tokens > 0


# --- where responses end ---------------------------------------------------------------------------------------------

PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
CHUNKED = {b"transfer-encoding": b"chunked"}


def chunks(pieces):
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def split(data, cuts):
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(PIECES, st.lists(st.integers(0, 500)))
def test_chunks_pass_whole_however_they_come(pieces, cuts):
    passing = ResponseBody(CHUNKED, bare=False, unchunked=False)
    passed = b""
    for data in split(chunks(pieces), cuts):
        assert not passing.over
        passed += passing.pass_on(data)
        assert chunks(pieces).startswith(passed) and (passing.over or (passed + b"0\r\n\r\n")[-7:-5] in (b"", b"\r\n"))
    assert passing.over and passed == chunks(pieces)


@given(PIECES, st.lists(st.integers(0, 500)))
def test_a_client_without_chunks_gets_what_is_in_them(pieces, cuts):
    passing = ResponseBody(CHUNKED, bare=False, unchunked=True)
    assert b"".join(map(passing.pass_on, split(chunks(pieces), cuts))) == b"".join(pieces) and passing.over


@given(st.binary(min_size=1, max_size=99), st.lists(st.integers(0, 500)))
def test_a_body_of_known_length_is_over_with_its_last_byte(data, cuts):
    passing = ResponseBody({b"content-length": b"%d" % len(data)}, bare=False, unchunked=False)
    for piece in split(data, cuts):
        assert not passing.over
        assert passing.pass_on(piece) == piece
    assert passing.over
    with pytest.raises(BrokenResponse):
        passing.pass_on(b"x")


def test_an_event_can_follow_any_whole_chunk():
    passing = ResponseBody(CHUNKED, bare=False, unchunked=False)
    passed = passing.pass_on(b"3\r\none\r\n5\r\ntw")
    assert passed + passing.last(b"event") == chunks([b"one", b"event"])


@pytest.mark.parametrize("head", [b"", b"nonsense", b"HTTP/1.1 ok"])
def test_what_is_no_response_is_told(head):
    with pytest.raises(BrokenResponse):
        response_head(head)


# --- what clients are told -------------------------------------------------------------------------------------------


def test_a_stream_that_has_said_its_last_word_is_whole():
    assert is_whole(b"data: {}\n\ndata: [DONE]\n\n") and is_whole(b"event: response.completed\ndata: {}\n\n")
    assert not is_whole(b'data: {"choices": [{"delta": {"content": "[DONE]"}}]}\n\n')


def test_a_response_that_was_opened_long_ago_fails_with_the_next_number():
    first = b'event: response.created\ndata: {"sequence_number": 0, "response": {"id": "resp_1"}}\n\n'
    told = last_events(RESPONSES, first, b'data: {"sequence_number": 41}\n\n').decode().split("\n")
    error, failed = (json.loads(line[6:]) for line in told if line.startswith("data: "))
    assert (error["sequence_number"], failed["sequence_number"], failed["response"]["id"]) == (42, 43, "resp_1")


# --- what was said in a session --------------------------------------------------------------------------------------


def frame(message, mask=False):
    return Frame(Opcode.TEXT, json.dumps(message).encode()).serialize(mask=mask)


def frames(data):
    return FrameReader(masked=False).feed(data)


@given(st.lists(st.integers(0, 3000)))
def test_a_session_goes_on_from_what_was_asked_and_said(cuts):
    transcript = Transcript("/v1/realtime")
    asked = frame({"type": "start", "prompt": "Watch.", "system_prompt": "Be brief."}, mask=True)
    picture = Frame(Opcode.BINARY, bytes(1000)).serialize(mask=True)
    for piece in split(asked + picture, cuts):
        transcript.from_client(piece)
    said = (
        frame({"type": "ready"}) + frame({"type": "output", "text": "A cat"}) + frame({"type": "output", "text": "."})
    )
    assert b"".join(map(transcript.from_replica, split(said, cuts))) == said
    transcript.from_client(frame({"type": "prompt", "text": "And now?"}, mask=True))
    error, end, close = frames(transcript.last_messages(died()))
    assert json.loads(bytes(error.data))["code"] == "replica_failed"
    assert json.loads(bytes(end.data)) == {
        "type": "session_end",
        "reason": "replica_failed",
        "prefill": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Watch."},
            {"role": "assistant", "content": "A cat."},
            {"role": "user", "content": "And now?"},
        ],
    }
    assert Close.parse(bytes(close.data)).code == 1012


@pytest.mark.parametrize(
    "given",
    [b'{"type": "start", "prompt": "Watch.", "prefill_messages": 5}', b"[" * 50_000],
    ids=["a prefill that is none", "a deep list"],
)
def test_a_strange_message_of_a_client_ends_nothing(given):
    transcript = Transcript("/v1/realtime")
    transcript.from_client(Frame(Opcode.TEXT, given).serialize(mask=True))
    _, end, _ = frames(transcript.last_messages(died()))
    assert json.loads(bytes(end.data))["prefill"] in ([], [{"role": "user", "content": "Watch."}])


def test_half_a_frame_of_a_dead_replica_does_not_pass():
    transcript = Transcript("/v1/realtime")
    whole, half = frame({"type": "ready"}), frame({"type": "output", "text": "A cat"})[:-3]
    assert transcript.from_replica(whole + half) == whole


def test_a_session_that_its_replica_has_closed_is_over():
    transcript = Transcript("/v1/realtime")
    transcript.from_replica(Frame(Opcode.CLOSE, Close(1000, "").serialize()).serialize(mask=False))
    assert transcript.closed


# --- one page of metrics ---------------------------------------------------------------------------------------------


def read(page):
    """Sample, labels → value; and the type of each family, which is on a page once."""
    families = list(parser.text_string_to_metric_families(page))
    values = {(one.name, *sorted(one.labels.items())): one.value for family in families for one in family.samples}
    types = {family.name: family.type for family in families}
    assert len(types) == len(families)
    return values, types


def test_pages_of_replicas_become_one_with_a_label_and_without_being_parsed(monkeypatch):
    pages, expected, types = {}, {}, {}
    for replica in range(3):
        metrics = Metrics()
        metrics.requests.labels('/a "path" {1,2}\\\n# HELP \u2028', "200").inc(replica)
        metrics.total.observe(replica)
        pages[replica] = metrics.text().decode()
        values, types = read(pages[replica])
        for (name, *labels), value in values.items():
            expected[name, *sorted([*labels, ("replica", str(replica))])] = value

    def refuse(*_):
        raise AssertionError("parsing a page takes long, and holds up all streams")

    with monkeypatch.context() as patched:
        patched.setattr(parser, "text_fd_to_metric_families", refuse)
        page = FrontMetrics().page(pages).decode()
    values, found = read(page)
    assert {key: value for key, value in values.items() if "mossvl_front_" not in key[0]} == expected
    assert found.items() >= types.items()


def test_a_front_without_replicas_has_a_page_of_its_own():
    assert b"mossvl_front_choice_seconds_count 0.0" in FrontMetrics().page({})
