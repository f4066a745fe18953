"""The simple protocol, message by message: what comes, and what is done for it."""

import json

import pytest

from mossvl.errors import EngineError, InputError
from mossvl.live.events import Closed, Seen, Silence, Text, Turn
from mossvl.server.config import ServerConfig
from mossvl.server.errors import unavailable
from mossvl.server.realtime.protocol import (
    MOST_REFUSED,
    Begin,
    Close,
    End,
    Interrupt,
    Play,
    Push,
    Say,
    Send,
    StopPlaying,
)
from mossvl.server.realtime.simple import SimpleProtocol

JPEG, PNG = b"\xff\xd8\xff\xe0" + bytes(9), b"\x89PNG\r\n\x1a\n" + bytes(9)


class Client:
    """A client's side of a protocol; its session takes everything at once."""

    def __init__(self, **config):
        self.time = 100.0
        self.protocol = SimpleProtocol(ServerConfig(**config), lambda: self.time)
        self.protocol.opened()

    def acts(self):
        acts, found = self.protocol.acts, []
        while acts:
            found.append(acts.popleft())
        return found

    def send(self, kind, **fields):
        self.protocol.text(json.dumps({"type": kind, **fields}))
        return self.acts()

    def start(self, **fields):
        (begin,) = self.send("start", **fields)
        assert isinstance(begin, Begin)
        self.protocol.begun()
        assert self.acts() == [Send({"type": "ready"})]
        return begin

    def frame(self, data=JPEG, **fields):
        assert self.send("frame", **fields) == []
        self.protocol.binary(data)
        return self.acts()


@pytest.fixture
def client():
    return Client()


def told(acts):
    """The type of each message, and the code of an error."""
    return [act.message.get("code", act.message["type"]) if isinstance(act, Send) else act for act in acts]


# --- beginning -------------------------------------------------------------------------------------------------------


def test_a_session_begins_with_what_start_says(client):
    begin = client.start(
        system_prompt="Watch.",
        prompt="Count.",
        frame_queue_size=9,
        max_tokens_per_second=5,
        max_new_tokens=64,
        do_sample=True,
        temperature=0.5,
        top_k=7,
        top_p=0.9,
        repetition_penalty=1.1,
    )
    assert (begin.prompt, begin.system_prompt) == ("Count.", "Watch.")
    options = begin.options
    assert (options.queue, options.tokens_per_second, options.max_new_tokens) == (9, 5, 64)
    assert (options.do_sample, options.temperature, options.top_k) == (True, 0.5, 7)
    assert (options.top_p, options.repetition_penalty) == (0.9, 1.1)
    assert options.inserted_silence == "published"


def test_an_empty_start_is_enough(client):
    begin = client.start()
    assert (begin.prompt, begin.system_prompt, begin.options.tokens_per_second) == ("", None, 12)


def test_the_published_rate_without_a_limit_is_none(client):
    assert client.start(max_tokens_per_second=86400).options.tokens_per_second is None


@pytest.mark.parametrize(
    "first",
    [
        "no json",
        "[]",
        '{"type": "frame"}',
        '{"type": "start", "prompt": 1}',
        '{"type": "start", "temprature": 1}',
        '{"type": "start", "top_p": 0}',
        '{"type": "start", "max_tokens_per_second": NaN}',
        '{"type": "start", "max_tokens_per_second": 1e999}',
    ],
)
def test_anything_but_a_start_ends_the_connection(client, first):
    client.protocol.text(first)
    assert told(client.acts()) == ["invalid_request", Close(1008, "invalid_request")]


def test_a_start_that_does_not_come_is_not_waited_for(client):
    assert client.protocol.deadline == 130
    client.protocol.late()
    assert told(client.acts()) == ["timeout", Close(1008, "timeout")] and client.protocol.deadline is None


def test_after_the_start_there_is_no_deadline(client):
    client.start()
    assert client.protocol.deadline is None


def test_a_second_start_is_refused(client):
    client.start()
    assert told(client.send("start")) == ["invalid_request"]


def test_a_client_that_there_is_no_room_for_is_told_to_come_later(client):
    client.protocol.full(unavailable("overloaded", "full"))
    error, close = client.acts()
    assert error.message == {"type": "error", "message": "full", "code": "overloaded"} and close.code == 1013


@pytest.mark.parametrize(
    ("error", "code"), [(InputError("no"), 1008), (EngineError("broken"), 1013), (KeyError("bug"), 1011)]
)
def test_a_session_that_cannot_begin_ends_the_connection(client, error, code):
    client.send("start")
    client.protocol.failed(error)
    message, close = client.acts()
    assert message.message["type"] == "error" and "bug" not in message.message["message"] and close.code == code


# --- frames and prompts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [JPEG, PNG])
def test_a_frame_is_its_image_with_the_time_and_prompt_that_announced_it(client, data):
    client.start()
    assert client.frame(data, timestamp=1.5, prompt="Now?") == [Push(data, 1.5, "Now?")]
    assert client.frame(data, text="Now?") == [Push(data, None, "Now?")]
    assert client.frame(data, prompt=" ") == [Push(data, None, None)]


def test_acknowledgements_say_what_was_dropped_and_what_waits(client):
    client.start()
    client.frame()
    client.protocol.pushed(dropped=(1.0,), pending=3)
    assert client.acts() == [Send({"type": "frame_ack", "dropped_oldest": True, "pending_frames": 3})]
    assert client.send("prompt", text="Why?") == [Say("Why?")]
    client.protocol.pushed()
    assert client.acts() == [Send({"type": "prompt_ack"})]


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8", bytes(1000)])
def test_what_is_no_image_is_refused_and_the_session_goes_on(client, data):
    client.start()
    assert told(client.frame(data, timestamp=1)) == ["invalid_request"]
    assert client.frame(timestamp=1) == [Push(JPEG, 1, None)]


def test_a_huge_frame_is_refused_with_the_limit():
    client = Client(live_frame_bytes=100)
    client.start()
    (error,) = client.frame(JPEG + bytes(100))
    assert error.message["code"] == "too_large" and "100 (--live-frame-bytes)" in error.message["message"]


def test_an_image_that_nothing_announced_is_refused(client):
    client.start()
    client.protocol.binary(JPEG)
    assert told(client.acts()) == ["invalid_request"]


def test_a_newer_announcement_replaces_an_older_one_which_is_told(client):
    client.start()
    client.send("frame", timestamp=1)
    assert told(client.send("frame", timestamp=2)) == ["invalid_request"]
    client.protocol.binary(JPEG)
    assert client.acts() == [Push(JPEG, 2, None)]


def test_a_frame_that_the_session_refuses_is_told_and_the_session_goes_on(client):
    client.start()
    client.frame(timestamp=1)
    client.protocol.failed(InputError("too early"))
    (error,) = client.acts()
    assert error.message == {"type": "error", "message": "too early", "code": "invalid_input"}
    client.frame(timestamp=2)
    client.protocol.pushed()
    assert told(client.acts()) == ["frame_ack"]


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_prompt_is_refused(client, text):
    client.start()
    assert told(client.send("prompt", text=text)) == ["invalid_request"]


def test_a_near_miss_is_named(client):
    client.start()
    (error,) = client.send("promt", text="a")
    assert "'prompt'" in error.message["message"]
    (error,) = client.send("prompt", prompt="a")
    assert "'text'" in error.message["message"]


def test_a_client_that_is_refused_again_and_again_is_let_go(client):
    client.start()
    for _ in range(MOST_REFUSED - 1):
        assert told(client.send("nonsense")) == ["invalid_request"]
    client.frame()
    client.protocol.pushed()  # It can be talked to, so that counting begins anew.
    client.acts()
    for _ in range(MOST_REFUSED - 1):
        assert told(client.send("nonsense")) == ["invalid_request"]
    assert told(client.send("nonsense")) == ["invalid_request", End()]
    assert client.send("nonsense") == []
    client.protocol.told(Closed(reason="closed", prefill=[]))
    end, close = client.acts()
    assert end.message["reason"] == close.reason == "too many refused messages" and close.code == 1008


def test_a_message_that_is_too_long_is_refused(client):
    client.start()
    assert told(client.send("prompt", text="a" * (1 << 20))) == ["invalid_request"]


def test_a_ping_is_answered_also_before_the_start(client):
    assert client.send("ping") == [Send({"type": "pong"})]


def test_speech_can_be_interrupted(client):
    client.start()
    assert client.send("interrupt") == [Interrupt(), Send({"type": "interrupt_ack"})]


# --- a file of the server --------------------------------------------------------------------------------------------


def test_a_file_is_played_and_its_end_is_told(client):
    client.start()
    (play,) = client.send("video", path="a.mp4", sample_fps=2, playback_speed=0, max_frames=3)
    client.protocol.playing("a.mp4")
    assert client.acts() == [Send({"type": "video_started", "path": "a.mp4"})]
    assert isinstance(play, Play) and (play.video.sample_fps, play.video.playback_speed) == (2, 0)
    assert told(client.send("video", path="b.mp4")) == ["invalid_request"]
    assert client.send("stop_video") == [StopPlaying(), Send({"type": "stop_video_ack"})]
    client.protocol.played(3, 1, None)
    assert client.acts() == [Send({"type": "video_end", "frames_sent": 3, "frames_dropped": 1})]
    assert isinstance(client.send("video", path="b.mp4")[0], Play)


def test_a_rate_above_any_camera_s_is_refused(client):
    client.start()
    assert told(client.send("video", path="a.mp4", sample_fps=1e300)) == ["invalid_request"]


def test_a_file_that_cannot_be_played_is_told(client):
    client.start()
    client.send("video", path="a.mp4")
    client.protocol.played(0, 0, InputError("no such file"))
    (error,) = client.acts()
    assert error.message["message"] == "Video source failed: no such file"


def test_a_number_may_be_written_as_a_text(client):
    assert client.start(top_p="0.5").options.top_p == 0.5
    assert client.frame(timestamp="3") == [Push(JPEG, 3.0)]


# --- output and the end ----------------------------------------------------------------------------------------------


def test_output_is_the_raw_strings_in_their_order(client):
    client.start()
    events = [
        Turn(text="Why?", raw="<|round_start|>"),
        Silence(raw="<|silence|>", inserted=True),
        Seen(time=1.0, number=0, tokens=4, lag=0.1),
        Text(time=1.0, text="Be", raw="<|response|>Be"),
        Silence(time=1.0, raw="<|silence|>", ends_reply=True),
    ]
    for event in events:
        client.protocol.told(event)
    assert [act.message for act in client.acts()] == [
        {"type": "output", "text": text} for text in ("<|round_start|>", "<|silence|>", "<|response|>Be", "<|silence|>")
    ]


def test_stopping_ends_the_session_and_then_the_connection(client):
    client.start()
    assert client.send("stop") == [Send({"type": "stopping"}), End()]
    prefill = [{"role": "user", "content": "Why?"}]
    client.protocol.told(Closed(reason="closed", prefill=prefill))
    end = Send({"type": "session_end", "reason": "stopped", "prefill": prefill})
    assert client.acts() == [end, Close(1000, "stopped")]


def test_stopping_before_the_start_closes_the_connection(client):
    assert client.send("stop") == [Send({"type": "stopping"}), Close(1000, "stopped")]


@pytest.mark.parametrize(("reason", "code"), [("idle", 1000), ("final", 1000)])
def test_a_session_that_ends_by_itself_says_why(client, reason, code):
    client.start()
    client.protocol.told(Closed(reason=reason, prefill=[]))
    end, close = client.acts()
    assert (end.message["reason"], close.code) == (reason, code)


def test_a_session_that_fails_tells_its_error_and_hides_what_is_a_bug(client):
    client.start()
    client.protocol.told(Closed(reason="error", prefill=[], error=KeyError("secret")))
    error, end, close = client.acts()
    assert error.message["code"] == "internal_error" and "secret" not in error.message["message"]
    assert (end.message["reason"], close.code) == ("error", 1011)


def test_when_the_server_stops_the_session_ends_with_the_reason_and_what_to_go_on_from(client):
    client.start()
    client.protocol.stopping()
    assert client.acts() == [End()]
    client.protocol.told(Closed(reason="closed", prefill=[]))
    end, close = client.acts()
    assert end.message == {"type": "session_end", "reason": "stopping", "prefill": []} and close.code == 1012


def test_nothing_is_taken_after_the_end(client):
    client.start()
    client.send("stop")
    client.protocol.binary(JPEG)
    assert client.send("prompt", text="Why?") == client.acts() == []
