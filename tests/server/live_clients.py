"""A client of the video protocol, without a socket."""

import json

from mossvl.live.events import Seen
from mossvl.live.usage import Usage
from mossvl.server.config import ServerConfig
from mossvl.server.realtime.protocol import Send
from mossvl.server.realtime.video import VideoProtocol

JPEG = b"\xff\xd8\xff\xe0" + bytes(9)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(9)
WEBP = b"RIFF\x00\x00\x00\x00WEBP" + bytes(9)


class Client:
    """A client's side of a protocol; its session takes everything at once."""

    def __init__(self, **config):
        self.time = 100.0
        self.usage = Usage(limit=4096)
        self.protocol = VideoProtocol(ServerConfig(**config), lambda: self.time, "mossvl-tiny")
        self.protocol.usage = lambda: self.usage
        self.protocol.opened()
        (self.created,) = self.sent()

    def acts(self):
        acts, found = self.protocol.acts, []
        while acts:
            found.append(acts.popleft())
        return found

    def sent(self):
        """What was done, of which messages are what they hold."""
        return [act.message if isinstance(act, Send) else act for act in self.acts()]

    def send(self, kind, **fields):
        self.protocol.text(json.dumps({"type": kind, **fields}))
        return self.sent()

    def configure(self, **fields):
        (begin,) = self.send("session.configure", **fields)
        self.protocol.begun()
        configured, ready = self.sent()
        assert (configured["type"], ready["type"]) == ("session.configured", "session.ready")
        return begin, configured

    def announce(self, number, time=None, **fields):
        time = float(number) if time is None else time
        return self.send("input.frame", **{"seq_no": number, "timestamp": time, "mime_type": "image/jpeg", **fields})

    def frame(self, number, time=None, data=JPEG, **fields):
        """Give a frame; return how it is pushed, and what the client is told then."""
        assert self.announce(number, time, **fields) == [{"type": "input.frame.ready", "seq_no": number}]
        self.protocol.binary(data)
        (push,) = self.acts()
        self.protocol.pushed()
        return push, *self.sent()

    def prompt(self, number, text="Why?", **fields):
        (say,) = self.send("input.prompt", seq_no=number, prompt=text, **fields)
        self.protocol.pushed()
        return say, *self.sent()

    def told(self, *events):
        for event in events:
            self.protocol.told(event)
        return self.sent()


def seen(time, number=0):
    return Seen(time=time, number=number, tokens=4, lag=0.01)


def kinds(sent):
    return [one["type"] if isinstance(one, dict) else one for one in sent]
