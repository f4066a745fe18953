"""The video protocol, event by event: turns, responses, usage, and the end."""

import pytest
from live_clients import Client, kinds, seen

from mossvl.errors import ContextLengthError, EngineError
from mossvl.live.events import (
    Closed,
    Decision,
    Interrupted,
    Limit,
    RolledOver,
    Silence,
    SpeechStarted,
    Text,
    Turn,
)
from mossvl.live.usage import Usage
from mossvl.server.realtime.protocol import Begin, Close, End, Interrupt

# --- responses -------------------------------------------------------------------------------------------------------


def test_text_until_silence_is_a_response_with_its_usage(ready):
    ready.frame(0)
    ready.usage = Usage(vision=4, text_input=30, text_output=3, limit=4096)
    _, empty, first, second, silence, done = ready.told(
        seen(0.0),
        SpeechStarted(time=0.0),
        Text(time=0.0, text=" "),
        Text(time=0.0, text="Red"),
        Text(time=0.0, text=" ball"),
        Silence(time=0.0, ends_reply=True),
        Decision(time=0.0, silent=False, goes_on=False),
    )
    assert (empty["delta"], empty["response_id"], empty["response_seq"]) == (" ", None, None)
    assert (first["delta"], second["delta"]) == ("Red", " ball")
    assert first["response_id"] == second["response_id"] == done["response_id"] and done["response_seq"] == 1
    assert silence == {
        "type": "response.turn.silence",
        "turn_id": 0,
        "seq_no": 0,
        "timestamp": 0.0,
        "silence_seq": 1,
    }
    assert (done["finish_reason"], done["boundary"]) == ("stop", "silence")
    counted = {
        "vision_tokens": 4,
        "text_input_tokens": 30,
        "text_output_tokens": 3,
        "text_tokens": 33,
        "total_tokens": 37,
    }
    assert done["usage"] == counted | {"cumulative": counted}


def test_usage_of_responses_adds_up(ready):
    ready.usage = Usage(4, 30, 3)
    (*_, first) = ready.told(Text(text="a"), Silence(ends_reply=True))
    ready.usage = Usage(12, 50, 9)
    (*_, second) = ready.told(Silence(), Text(text="b"), Silence(ends_reply=True))
    for name, total in second["usage"]["cumulative"].items():
        assert first["usage"][name] + second["usage"][name] == total
    assert second["response_seq"] == 2 and second["response_id"] != first["response_id"]


def test_silence_without_speech_ends_no_response_and_inserted_silence_is_the_sessions_own(ready):
    assert kinds(ready.told(Silence(), Decision(silent=True, goes_on=False))) == ["response.turn.silence"]
    assert ready.told(Silence(inserted=True)) == []


def test_a_response_may_go_on_over_frames(ready):
    ready.frame(0)
    ready.frame(1)
    sent = ready.told(
        seen(0.0),
        Text(text="One"),
        Decision(silent=False, goes_on=True),
        seen(1.0),
        Text(text="", raw="<|response|>"),
        Text(text=" two"),
        Silence(ends_reply=True),
    )
    assert kinds(sent) == [
        *("input.frame.processed", "response.text.delta", "input.frame.processed", "response.text.delta"),
        *("response.turn.silence", "response.done"),
    ]
    assert sent[1]["response_id"] == sent[3]["response_id"]


def test_an_end_token_ends_a_response_without_silence(ready):
    sent = ready.told(Text(text="Red"), Text(text="", raw="<|im_end|>"), Decision(silent=False, goes_on=False))
    assert kinds(sent) == ["response.text.delta", "response.done"]


def test_a_question_interrupts_a_response_which_is_not_done(ready):
    ready.prompt(0)
    delta, interrupted, _, later, silence, done = ready.told(
        Text(text="Long"), Turn(text="Why?"), Text(text="So"), Silence(ends_reply=True)
    )
    assert interrupted["response_id"] == delta["response_id"] != later["response_id"]
    assert (done["response_seq"], done["turn_id"], silence["turn_id"]) == (2, 1, 1)


def test_an_interrupted_response_is_done_with_that_reason(ready):
    assert ready.send("response.interrupt") == [Interrupt()]
    _, done = ready.told(Text(text="Long"), Interrupted())
    assert (done["finish_reason"], done["boundary"]) == ("interrupted", "interrupt")


def test_a_response_that_reaches_its_length_says_so(ready):
    _, done = ready.told(Text(text="Long"), Limit(kind="max_new_tokens"), Decision(silent=False, goes_on=True))
    assert (done["finish_reason"], done["boundary"]) == ("length", "limit")


def test_a_roll_over_is_told(ready):
    (rolled,) = ready.told(RolledOver(time=9.0, kept_tokens=5, kept_frames=2, reason="length"))
    assert rolled == {
        "type": "session.rolled_over",
        "timestamp": 9.0,
        "kept_tokens": 5,
        "kept_frames": 2,
        "reason": "length",
    }


def test_usage_is_told_once_a_second_if_it_is_wanted(client):
    client.configure(include_usage=True)
    client.usage = Usage(vision=100, text_input=20, text_output=5, held=40, limit=4096)
    assert [one["type"] for one in client.told(Silence(), Silence())].count("session.usage") == 1
    client.time += 1
    (_, usage) = client.told(Silence())
    assert usage == {
        "type": "session.usage",
        "encoder_tokens": 100,
        "decoder_tokens": 25,
        "encoder_kv_tokens": 40,
        "token_space_used": 125,
        "context_limit": 4096,
        "context_remaining": 4071,
    }


def test_usage_is_not_told_unasked(ready):
    assert kinds(ready.told(Silence())) == ["response.turn.silence"]


# --- the end ---------------------------------------------------------------------------------------------------------


def test_after_the_final_input_the_session_completes(ready):
    ready.prompt(0, final=True)
    prefill = [{"role": "user", "content": "Why?"}]
    *_, response, done, close = ready.told(Turn(text="Why?"), Text(text="So"), Closed(reason="final", prefill=prefill))
    assert response["boundary"] == "request_end"
    assert (done["reason"], done["aborted"], done["prefill_messages"]) == ("completed", False, prefill)
    assert close == Close(1000, "completed")


def test_an_abort_ends_the_session_whatever_waits(ready):
    ready.announce(0)
    assert ready.send("session.abort") == [End()]
    done, close = ready.told(Closed(reason="closed", prefill=[]))
    assert (done["reason"], done["aborted"], close.code) == ("aborted", True, 1000)
    assert ready.send("session.abort") == []


def test_an_abort_before_the_configuration_ends_the_connection(client):
    done, close = client.send("session.abort")
    assert (done["reason"], close.code) == ("aborted", 1000)


@pytest.mark.parametrize(
    ("event", "code", "reason"),
    [
        (Closed(reason="idle", prefill=[]), "session_timeout", "error"),
        (Closed(reason="error", prefill=[], error=EngineError("device")), "response_failed", "error"),
        (
            Closed(reason="error", prefill=[], error=ContextLengthError("full")),
            "context_exhausted",
            "context_exhausted",
        ),
    ],
)
def test_a_session_that_fails_tells_the_code_and_then_the_end(ready, event, code, reason):
    error, done, close = ready.told(event)
    assert (error["code"], done["reason"], done["aborted"]) == (code, reason, False) and close.code in (1008, 1011)


def test_when_the_server_stops_the_client_learns_how_to_go_on(ready):
    ready.protocol.stopping()
    assert ready.acts() == [End()]
    prefill = [{"role": "system", "content": "s"}, *[{"role": "user", "content": str(one)} for one in range(99)]]
    error, done, close = ready.told(Closed(reason="closed", prefill=prefill))
    assert (error["code"], close.code) == ("response_failed", 1012)
    again = done["prefill_messages"]
    assert len(again) == 64 and again[0]["role"] == "system" and again[-1]["content"] == "98"
    Client().configure(prefill_messages=again)


def test_begin_is_told_of_nothing_but_its_own(client):
    (begin,) = client.send("session.configure", prompt="a")
    assert isinstance(begin, Begin) and begin.prefill is None
