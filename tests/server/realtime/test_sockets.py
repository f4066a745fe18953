"""Live sessions over real sockets: clients of both protocols, good and bad ones."""

import base64
import json
import threading

import httpx
import pytest
from live_sockets import configured, input_frame, jpeg, no_session, pushed, sample, simple, started, video
from running import serving, waited
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

FLAGS = ("--live-sessions", "3", "--live-frame-bytes", "200000", "--stall-timeout", "5")


@pytest.fixture(scope="module")
def live():
    with serving(*FLAGS) as running:
        yield running


# --- the simple protocol ---------------------------------------------------------------------------------------------


def test_a_simple_session_from_its_start_to_its_end(live):
    with simple(live) as client:
        started(client, prompt="Say what you see.")
        assert pushed(client, timestamp=0)["dropped_oldest"] is False
        pushed(client, jpeg(kind="PNG"), timestamp=1.5, prompt="What is it?")
        client.send("prompt", text="Why?")
        client.until("prompt_ack")
        client.send("ping")
        client.until("pong")
        while client.told.count({"type": "output", "text": "<|round_start|>"}) < 2:
            client.until("output")
        client.send("stop")
        assert client.closed() == 1000
    assert client.kinds()[-1] == "session_end" and client.told[-1]["reason"] == "stopped"
    assert client.told[-1]["prefill"][0]["role"] == "system"
    spoken = "".join(one["text"] for one in client.told if one["type"] == "output")
    assert spoken.count("<|round_start|>") == 2


def test_what_a_simple_client_does_wrong_is_told_and_the_session_goes_on(live):
    with simple(live) as client:
        started(client)
        pushed(client, timestamp=2)
        for data, fields in ((b"no image", {"timestamp": 3}), (jpeg(), {"timestamp": 1}), (jpeg()[:300], {})):
            client.send("frame", **fields)
            client.socket.send(data)
            assert client.until("error")["code"] in ("invalid_request", "invalid_input", "invalid_media")
        client.socket.send("{")
        assert client.until("error")["code"] == "invalid_request"
        pushed(client, timestamp=3)


# --- the video protocol ----------------------------------------------------------------------------------------------


def test_a_video_session_from_its_configuration_to_its_end(live):
    with video(live) as client:
        configured(client, include_usage=True)
        input_frame(client, 0, until="processed")
        input_frame(client, 1, mime_type="image/png", data=jpeg(kind="PNG"), prompt="What is it?", until="processed")
        client.send("input.prompt", seq_no=2, prompt="And now?", final=True)
        client.until("input.prompt.accepted")
        assert client.closed() == 1000
    done = client.told[-1]
    assert (done["type"], done["reason"], done["aborted"]) == ("session.done", "completed", False)
    usage = done["usage"]
    assert usage["total_tokens"] == usage["vision_tokens"] + usage["text_tokens"]
    assert usage["text_output_tokens"] > 0 and usage["vision_tokens"] == 10
    turns = [one for one in client.told if one["type"] == "response.turn.interrupted"]
    assert [(one["turn_id"], one["next_turn_id"], one["seq_no"]) for one in turns] == [(0, 1, 1), (1, 2, 2)]
    kinds = client.kinds()
    for number in (0, 1):
        accepted, processed = (
            next(i for i, one in enumerate(client.told) if one["type"] == kind and one["seq_no"] == number)
            for kind in ("input.frame.accepted", "input.frame.processed")
        )
        assert accepted < processed
    assert "response.text.delta" in kinds and "session.usage" in kinds
    ids = {one["response_id"] for one in client.told if one["type"] == "response.text.delta" and one["delta"].strip()}
    assert None not in ids
    settled = [one["usage"] for one in client.told if one["type"] == "response.done"]
    for name, total in (settled[-1]["cumulative"] if settled else {}).items():
        assert sum(one[name] for one in settled) == total <= usage[name]


def test_a_session_goes_on_from_what_another_has_left(live):
    with video(live) as client:
        configured(client)
        input_frame(client, 0, until="processed")
        client.send("session.abort")
        assert client.closed() == 1000
    done = client.told[-1]
    assert (done["reason"], done["aborted"]) == ("aborted", True)
    with video(live) as client:
        configured(client, prompt="", prefill_messages=done["prefill_messages"])
        input_frame(client, 0, until="processed")


def test_speech_may_be_interrupted_and_the_session_goes_on(live):
    with video(live) as client:
        configured(client, max_new_tokens=100_000, max_tokens_per_turn=20, prompt="Count.")
        client.until("response.text.delta")
        client.send("response.interrupt")
        assert client.until("response.done")["finish_reason"] in ("interrupted", "stop")  # It may have been faster.
        input_frame(client, 0, until="processed")


def test_what_a_video_client_does_wrong_is_told_and_the_session_goes_on(live):
    with video(live) as client:
        configured(client)
        client.send("input.frame", seq_no=0, timestamp=0.0, mime_type="image/jpeg")
        client.until("input.frame.ready")
        client.socket.send(jpeg()[:300])
        assert client.until("input.frame.rejected")["seq_no"] == 0
        client.send("input.frame", seq_no=0, timestamp=0.0, mime_type="image/jpeg")
        client.until("input.frame.ready")
        client.socket.send(bytes(200_001))
        assert "200000" in client.until("input.frame.rejected")["reason"]
        client.send("input.prompt", seq_no=7, prompt="a")
        assert client.until("error")["seq_no"] == 7
        client.send("input.prompt", seq_no=0, prompt="\ud800")
        client.send("session.abort")
        assert client.closed() == 1000


def test_the_capabilities_are_told(live):
    told = httpx.get(f"{live.url}/v1/video/realtime/capabilities").json()
    assert told["prefill_messages"] is True and "response.done.per_response" in told["capabilities"]
    assert (told["max_sessions"], told["max_frame_bytes"]) == (3, 200_000)


# --- many, bad and gone ----------------------------------------------------------------------------------------------


def test_one_client_too_many_is_told_to_come_later(live):
    waited(lambda: no_session(live), live)
    with simple(live), simple(live), video(live) as third:
        third.until("session.created")
        with simple(live) as client:
            assert client.closed() == 1013 and client.told[0]["code"] == "overloaded"
        with video(live) as client:
            assert client.closed() == 1013
        assert client.kinds() == ["error", "session.done"] and client.told[0]["code"] == "session_capacity_exceeded"


def test_a_message_beyond_any_limit_closes_its_connection_alone(live):
    waited(lambda: no_session(live), live)
    with video(live) as other, simple(live, max_size=None) as client:
        configured(other)
        started(client)
        client.send("frame")
        client.socket.send(bytes(3 << 20))
        assert client.closed() == 1009
        input_frame(other, 0, until="processed")


def test_a_client_that_floods_is_let_go_and_another_does_not_notice(live):
    waited(lambda: no_session(live), live)
    with video(live) as other, video(live) as client:
        configured(other)
        configured(client)

        def flood():
            try:
                while True:
                    client.send("input.prompt", seq_no=99, prompt="a")
            except (ConnectionClosed, OSError):
                return

        flooding = threading.Thread(target=flood)
        flooding.start()
        assert client.closed() == 1008
        flooding.join()
        assert client.told[-1]["reason"] == "error"
        input_frame(other, 0, until="processed")


def test_what_happens_is_counted(live):
    waited(lambda: no_session(live), live)
    before = {name: sample(live, name) for name in ("live_frame_lag_seconds_count", "live_sessions_begun_total")}
    silent, speaking = (sample(live, "live_decisions_total", kind=kind) for kind in ("silent", "speaking"))
    vision = sample(live, "live_tokens_total", kind="vision")
    with video(live) as client:
        configured(client)
        input_frame(client, 0, until="processed")
        assert sample(live, "live_sessions") == 1
        assert httpx.get(f"{live.url}/health").json()["session_active"] is True
    waited(lambda: no_session(live), live)
    assert sample(live, "live_frame_lag_seconds_count") == before["live_frame_lag_seconds_count"] + 1
    assert sample(live, "live_tokens_total", kind="vision") == vision + 5
    health = {"status": "alive", "model_loaded": True, "session_active": False}
    assert httpx.get(f"{live.url}/health").json() == health
    now = sum(sample(live, "live_decisions_total", kind=kind) for kind in ("silent", "speaking"))
    assert now > silent + speaking


# --- who may ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/realtime", "/v1/video/realtime"])
def test_a_key_is_needed_where_there_are_keys(keyed, path):
    url = f"{keyed.url.replace('http', 'ws')}{path}"
    for headers in ({}, {"Authorization": "Bearer three"}):
        with pytest.raises(InvalidStatus) as refused:
            connect(url, additional_headers=headers)
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"
    with connect(url, additional_headers={"Authorization": "Bearer two"}) as socket:
        socket.close()
    assert f"WEBSOCKET {path} 401" in keyed.log and "ERROR" not in keyed.log


def test_a_browser_brings_its_key_as_a_subprotocol(keyed):
    url = f"{keyed.url.replace('http', 'ws')}/v1/video/realtime"
    for key, known in (("two", True), ("schlüssel", True), ("three", False)):
        coded = base64.urlsafe_b64encode(key.encode("utf-8")).decode().rstrip("=")
        offered = ["mossvl", f"mossvl-key.{coded}"]
        if known:
            with connect(url, subprotocols=offered) as socket:
                assert socket.subprotocol == "mossvl"
        else:
            with pytest.raises(InvalidStatus):
                connect(url, subprotocols=offered)


def test_other_sites_may_not_open_sessions_without_a_key(live):
    url = f"{live.url.replace('http', 'ws')}/v1/realtime"
    with pytest.raises(InvalidStatus) as refused:
        connect(url, origin="https://elsewhere.org")
    assert refused.value.response.status_code == 403
    with connect(url, origin=live.url) as socket:
        socket.close()


# --- the server's end ------------------------------------------------------------------------------------------------


def test_when_the_server_stops_sessions_end_with_a_reason_and_what_to_go_on_from():
    with serving() as server, simple(server) as first, video(server) as second:
        started(first, prompt="Hello.")
        configured(second)
        codes = []
        stopping = threading.Thread(target=lambda: codes.append(server.stop()))
        stopping.start()
        assert first.closed() == second.closed() == 1012
        stopping.join()
        assert first.told[-1]["type"] == "session_end" and first.told[-1]["reason"] == "stopping"
        assert first.told[-1]["prefill"][-1]["role"] in ("user", "assistant")
        assert second.told[-2]["code"] == "response_failed" and second.told[-1]["prefill_messages"]
        assert codes == [0] and "Traceback" not in server.log
