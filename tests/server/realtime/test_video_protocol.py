"""The video protocol, message by message: its beginning, and the order of inputs."""

import pytest
from live_clients import JPEG, PNG, WEBP, Client, kinds, seen

from mossvl.errors import ContextLengthError, EngineError, InputError
from mossvl.live.events import (
    Closed,
    Dropped,
    Turn,
)
from mossvl.server.errors import unavailable
from mossvl.server.realtime.protocol import MOST_REFUSED, End, Push, Say

# --- beginning -------------------------------------------------------------------------------------------------------


def test_a_connection_is_a_session_with_names_and_capabilities(client):
    created = client.created
    assert created["type"] == "session.created" and created["turn_id"] == 0 and created["model"] == "mossvl-tiny"
    assert created["configure_timeout_s"] == 180 and client.protocol.deadline == 280
    assert {"session.usage", "response.done.per_response", "response.id"} <= set(created["capabilities"])
    assert created["session_id"].startswith("video_sess_") and created["session_id"] != Client().created["session_id"]


def test_a_session_begins_as_it_is_configured(client):
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    begin, configured = client.configure(
        prompt="Watch.",
        system_prompt="You see.",
        prefill_messages=history,
        max_new_tokens=128,
        max_tokens_per_turn=10,
        temperature=0.5,
        top_p=0.9,
        input_queue_capacity=2,
        include_usage=True,
    )
    options = begin.options
    system, *rest = begin.prefill
    assert system == {"role": "system", "content": "You see."}
    assert rest == [*history, {"role": "user", "content": "Watch."}] and (begin.prompt, begin.system_prompt) == (
        "",
        None,
    )
    assert (options.tokens_per_second, options.max_new_tokens, options.when_behind) == (10, 128, "block")
    assert (options.do_sample, options.temperature, options.top_p, options.idle_timeout) == (True, 0.5, 0.9, 300)
    assert configured["input_queue_capacity"] == 2 and configured["max_tokens_per_turn"] == 10
    assert configured["max_frame_bytes"] == 32 << 20 and configured["parked_request_timeout_s"] == 300
    assert configured["context_limit"] == 4096 and client.protocol.deadline is None


def test_a_history_without_a_question_has_an_empty_one(client):
    begin, _ = client.configure(prefill_messages=[{"role": "system", "content": "You see."}])
    assert begin.prefill == [{"role": "system", "content": "You see."}, {"role": "user", "content": ""}]


def test_by_default_decoding_is_greedy_and_the_system_prompt_is_the_published_one(client):
    begin, _ = client.configure(system_prompt="")
    assert begin.system_prompt is None and not begin.options.do_sample
    assert begin.options.tokens_per_second is None and begin.options.max_new_tokens == 4096


@pytest.mark.parametrize(
    "fields",
    [
        {"unknown": 1},
        {"max_new_tokens": "128"},
        {"max_new_tokens": 0},
        {"include_usage": 1},
        {"input_queue_capacity": 257},
        {"temperature": 2.5},
        {"top_p": 0},
        {"benchmark_ignore_eos": True},
        {"prefill_messages": []},
        {"prefill_messages": [{"role": "tool", "content": ""}]},
        {"prefill_messages": [{"role": "user", "content": "a" * 131_000}] * 2},
        {"prefill_messages": [{"role": "user", "content": "a"}] * 65},
    ],
)
def test_a_configuration_that_cannot_be_is_refused_and_may_be_corrected(client, fields):
    (error,) = client.send("session.configure", **fields)
    assert (error["type"], error["code"]) == ("error", "invalid_request") and "seq_no" not in error
    assert client.protocol.deadline == 280
    client.configure()


def test_a_configuration_that_the_session_refuses_may_be_corrected(client):
    client.send("session.configure")
    client.protocol.failed(InputError("no"))
    assert kinds(client.sent()) == ["error"] and client.protocol.deadline == 280
    client.configure()


def test_a_configuration_that_does_not_come_ends_the_session(client):
    client.protocol.late()
    error, done, close = client.sent()
    assert error["code"] == "session_timeout" and done["type"] == "session.done" and done["reason"] == "error"
    assert close.code == 1008


def test_a_second_configuration_is_refused(ready):
    (error,) = ready.send("session.configure")
    assert error["code"] == "invalid_request"


def test_without_room_the_client_is_told_to_come_later():
    client = Client()
    client.protocol.full(unavailable("overloaded", "full"))
    error, done, close = client.sent()
    assert error["code"] == "session_capacity_exceeded" and close.code == 1013
    assert done["reason"] == "error" and set(done["usage"].values()) == {0}


@pytest.mark.parametrize(
    ("error", "code", "reason", "closed"),
    [
        (EngineError("full"), "session_capacity_exceeded", "error", 1013),
        (ContextLengthError("long"), "context_exhausted", "context_exhausted", 1011),
        (KeyError("bug"), "response_failed", "error", 1011),
    ],
)
def test_a_session_that_cannot_begin_is_over(client, error, code, reason, closed):
    client.send("session.configure")
    client.protocol.failed(error)
    message, done, close = client.sent()
    assert (message["code"], done["reason"], close.code) == (code, reason, closed)
    assert "bug" not in message["message"]


def test_inputs_before_the_session_is_ready_are_refused(client):
    error, rejected = client.announce(0)
    assert (error["code"], error["seq_no"]) == ("invalid_request", 0)
    assert rejected["type"] == "input.frame.rejected" and rejected["seq_no"] == 0
    assert kinds(client.send("input.prompt", seq_no=0, prompt="a")) == ["error"]


# --- inputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mime", "data"), [("image/jpeg", JPEG), ("image/png", PNG), ("image/webp", WEBP)])
def test_a_frame_is_announced_sent_accepted_and_processed(ready, mime, data):
    push, accepted = ready.frame(0, 1.5, data, mime_type=mime)
    assert push == Push(data, 1.5)
    assert accepted == {
        "type": "input.frame.accepted",
        "seq_no": 0,
        "timestamp": 1.5,
        "final": False,
        "pending_events": 1,
        "interrupts_current_turn": False,
    }
    (processed,) = ready.told(seen(1.5))
    assert processed == {
        "type": "input.frame.processed",
        "seq_no": 0,
        "timestamp": 1.5,
        "final": False,
        "pending_events": 0,
    }


def test_a_prompt_begins_a_turn_that_interrupts_the_one_before(ready):
    say, accepted = ready.prompt(0)
    assert say == Say("Why?") and accepted["interrupts_current_turn"] is True and accepted["pending_events"] == 1
    interrupted, processed = ready.told(Turn(text="Why?"))
    assert interrupted == {
        "type": "response.turn.interrupted",
        "turn_id": 0,
        "next_turn_id": 1,
        "seq_no": 0,
        "response_id": None,
    }
    assert (processed["type"], processed["turn_id"], processed["interrupted_turn_id"]) == (
        "input.prompt.processed",
        1,
        0,
    )
    assert processed["timestamp"] is None and processed["pending_events"] == 0


def test_a_prompt_with_a_frame_begins_its_turn_before_the_frame_is_processed(ready):
    push, accepted = ready.frame(0, prompt="Now?", final=True)
    assert push == Push(JPEG, 0.0, "Now?", final=True) and accepted["final"] is True
    interrupted, processed = ready.told(Turn(text="Now?"), seen(0.0))
    assert interrupted["next_turn_id"] == processed["turn_id"] == 1 and processed["type"] == "input.frame.processed"


def test_the_first_prompt_of_a_session_is_no_turn_of_an_input(ready):
    assert ready.told(Turn(text="as configured")) == []


def test_prompts_overtake_frames_and_each_is_told_of_its_own(ready):
    ready.frame(0)
    ready.prompt(1)
    sent = ready.told(Turn(text="Why?"), seen(0.0))
    assert [(one["type"], one["seq_no"]) for one in sent] == [
        ("response.turn.interrupted", 1),
        ("input.prompt.processed", 1),
        ("input.frame.processed", 0),
    ]


def test_numbers_are_dense_and_a_refused_one_may_be_tried_again(ready):
    error, rejected = ready.announce(1)
    assert error["message"].startswith("seq_no: ") or "expected seq_no 0, received 1" in error["message"]
    assert (error["seq_no"], rejected["seq_no"]) == (1, 1)
    ready.frame(0)
    (error, _) = ready.announce(0)
    assert "expected seq_no 1, received 0" in error["message"]
    ready.prompt(1)


def test_times_may_stay_but_not_go_back(ready):
    ready.frame(0, 2.0)
    assert kinds(ready.announce(1, 1.9)) == ["error", "input.frame.rejected"]
    ready.frame(1, 2.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"timestamp": -1.0},
        {"timestamp": "1"},
        {"mime_type": "image/gif"},
        {"size_bytes": 5},
        {"final": 1},
        {"seq_no": "0"},
        {"seq_no": 0.5},
        {"seq_no": True},
    ],
)
def test_a_frame_whose_fields_are_wrong_is_rejected(ready, fields):
    error, rejected = ready.announce(0, **fields)
    assert error["code"] == "invalid_request" and rejected["type"] == "input.frame.rejected"
    number = 0 if "seq_no" not in fields else None
    assert rejected["seq_no"] == number and error.get("seq_no") == number
    ready.frame(0)


@pytest.mark.parametrize("text", ['{"type": "input.frame", "seq_no": 0, "timestamp": NaN}', "{", "1", '{"type": 1}'])
def test_what_is_no_message_is_refused_and_the_session_goes_on(ready, text):
    ready.protocol.text(text)
    assert ready.sent()[0]["code"] == "invalid_request"
    ready.frame(0)


@pytest.mark.parametrize("data", [b"", PNG, b"text", JPEG + bytes(200)])
def test_an_image_that_is_not_as_announced_is_rejected_and_may_be_sent_again(data):
    client = Client(live_frame_bytes=100)
    client.configure()
    client.announce(0)
    client.protocol.binary(data)
    error, rejected = client.sent()
    assert (error["seq_no"], rejected["type"], rejected["seq_no"]) == (0, "input.frame.rejected", 0)
    client.frame(0)


def test_an_image_that_the_session_refuses_is_rejected(ready):
    ready.announce(0)
    ready.protocol.binary(JPEG)
    ready.acts()
    ready.protocol.failed(InputError("broken"))
    assert [(one["type"], one["seq_no"]) for one in ready.sent()] == [("error", 0), ("input.frame.rejected", 0)]
    ready.frame(0)


def test_an_image_must_follow_ready(ready):
    ready.protocol.binary(JPEG)
    assert kinds(ready.sent()) == ["error"]


def test_an_image_that_does_not_come_ends_the_session(ready):
    ready.announce(0)
    assert ready.protocol.deadline == 110
    ready.protocol.late()
    assert ready.acts() == [End()]
    error, done, close = ready.told(Closed(reason="closed", prefill=[]))
    assert (error["code"], done["reason"], close.code) == ("session_timeout", "error", 1008)


def test_an_image_that_comes_in_time_ends_the_deadline(ready):
    ready.frame(0)
    assert ready.protocol.deadline is None


def test_one_input_at_a_time_is_announced(ready):
    ready.announce(0)
    assert kinds(ready.announce(1)) == ["error", "input.frame.rejected"]
    assert kinds(ready.send("input.prompt", seq_no=1, prompt="a")) == ["error"]
    ready.protocol.binary(JPEG)
    assert ready.acts() == [Push(JPEG, 0.0)]


def test_without_room_an_input_waits_until_another_is_processed(client):
    client.configure(input_queue_capacity=2)
    client.frame(0)
    client.prompt(1)
    assert client.announce(2) == []
    assert kinds(client.announce(3)) == ["error", "input.frame.rejected"]  # One may wait, and no flood.
    processed, granted = client.told(seen(0.0))
    assert processed["pending_events"] == 1 and granted == {"type": "input.frame.ready", "seq_no": 2}


def test_a_waiting_prompt_is_given_once_there_is_room(client):
    client.configure(input_queue_capacity=1)
    client.frame(0)
    assert client.send("input.prompt", seq_no=1, prompt="Why?") == []
    processed, say = client.told(seen(0.0))
    assert processed["type"] == "input.frame.processed" and say == Say("Why?")


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_prompt_is_refused_but_with_a_frame_it_is_none(ready, text):
    (error,) = ready.send("input.prompt", seq_no=0, prompt=text)
    assert error["seq_no"] == 0
    push, accepted = ready.frame(0, prompt=text)
    assert push.prompt is None and accepted["interrupts_current_turn"] is False


def test_nothing_follows_the_final_input(ready):
    ready.prompt(0, final=True)
    assert "final" in ready.announce(1)[0]["message"]


def test_a_client_that_is_refused_again_and_again_is_let_go(ready):
    for _ in range(MOST_REFUSED - 1):
        assert kinds(ready.send("nonsense")) == ["error"]
    assert kinds(ready.send("nonsense")) == ["error", End()]
    error, done, close = ready.told(Closed(reason="closed", prefill=[]))
    assert (error["code"], done["reason"], close.code) == ("invalid_request", "error", 1008)


def test_a_frame_that_is_dropped_is_told_and_makes_room(client):
    client.configure(input_queue_capacity=2)
    client.frame(0)
    client.frame(1)
    assert client.announce(2) == []
    rejected, ready = client.told(Dropped(times=(0.0,), reason="queue"))
    assert (rejected["type"], rejected["seq_no"]) == ("input.frame.rejected", 0) and "0 s" in rejected["reason"]
    assert ready == {"type": "input.frame.ready", "seq_no": 2}
    (processed,) = client.told(seen(1.0))
    assert (processed["type"], processed["seq_no"], processed["timestamp"]) == ("input.frame.processed", 1, 1.0)


def test_what_was_asked_with_a_dropped_frame_is_asked_without_it(client):
    client.configure()
    client.frame(0, prompt="Why?")
    client.frame(1)
    assert kinds(client.told(Dropped(times=(0.0,), reason="queue"), Turn(text="Why?"))) == [
        "input.frame.rejected",
        "response.turn.interrupted",
    ]
    assert [one["seq_no"] for one in client.told(seen(1.0)) if one["type"] == "input.frame.processed"] == [1]
