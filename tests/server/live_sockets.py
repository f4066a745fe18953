"""Clients of both protocols of live sessions, over real sockets."""

import json
import re
from contextlib import contextmanager
from io import BytesIO

import httpx
from PIL import Image
from running import PATIENCE
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def jpeg(grey=0, size=(64, 64), kind="JPEG"):
    data = BytesIO()
    Image.new("RGB", size, (grey,) * 3).save(data, kind)
    return data.getvalue()


class Client:
    """A client, and all that it was told."""

    def __init__(self, socket):
        self.socket, self.told = socket, []

    def send(self, kind, **fields):
        self.socket.send(json.dumps({"type": kind, **fields}))

    def until(self, kind):
        """Read until a message of this type, and give it."""
        while True:
            message = json.loads(self.socket.recv(timeout=PATIENCE))
            self.told.append(message)
            if message["type"] == kind:
                return message

    def closed(self):
        """Read to the end; give the code with which the server closes."""
        try:
            while True:
                self.told.append(json.loads(self.socket.recv(timeout=PATIENCE)))
        except ConnectionClosed as end:
            return end.rcvd.code

    def kinds(self):
        return [message["type"] for message in self.told]


@contextmanager
def simple(server, **given):
    with connect(f"{server.url.replace('http', 'ws')}/v1/realtime", open_timeout=PATIENCE, **given) as socket:
        yield Client(socket)


@contextmanager
def video(server, **given):
    with connect(f"{server.url.replace('http', 'ws')}/v1/video/realtime", open_timeout=PATIENCE, **given) as socket:
        yield Client(socket)


def started(client, **fields):
    client.send("start", max_new_tokens=4, max_tokens_per_second=86400, **fields)
    client.until("ready")


def pushed(client, data=None, **fields):
    client.send("frame", **fields)
    client.socket.send(jpeg() if data is None else data)
    return client.until("frame_ack")


def configured(client, **fields):
    client.until("session.created")
    client.send("session.configure", **{"max_new_tokens": 4, "prompt": "Watch.", **fields})
    client.until("session.ready")


def input_frame(client, number, data=None, until="accepted", **fields):
    client.send("input.frame", **{"seq_no": number, "timestamp": float(number), "mime_type": "image/jpeg", **fields})
    client.until("input.frame.ready")
    client.socket.send(jpeg(number) if data is None else data)
    return client.until(f"input.frame.{until}")


def sample(server, name, **labels):
    """A value of the server's metrics."""
    wanted = ",".join(f'{label}="{value}"' for label, value in labels.items())
    found = re.search(
        rf"^mossvl_{name}{re.escape('{' + wanted + '}') if labels else ''} ([\d.e+]+)$",
        httpx.get(f"{server.url}/metrics").text,
        re.MULTILINE,
    )
    return float(found[1]) if found else 0.0


def no_session(server):
    return sample(server, "live_sessions") == 0
