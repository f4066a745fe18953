"""Clients over real sockets that do their worst: a neighbour does not notice, and nothing of them is left."""

import json
import os
import random
import re
import socket
import struct
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path

import pytest
from live_sockets import configured, input_frame, jpeg, no_session, sample, video
from raw_sockets import BINARY, CONT, PING, TEXT, frame, handshake
from running import PATIENCE, serving, waited

COUNT, VANISHING = (int(os.environ.get("MOSSVL_FUZZ", number)) for number in ("16", "30"))
FLAGS = ("--live-sessions", "8", "--live-frame-bytes", "200000", "--stall-timeout", "1")
PATHS = ("/v1/realtime", "/v1/video/realtime")
NO_ROOM = 1013
SLACK = 32 << 10
"""KiB that a server may have more after all of them."""


@pytest.fixture(scope="module")
def live():
    with serving(*FLAGS) as running:
        yield running


def opened(server, path, reads=True):
    port = int(server.url.rpartition(":")[2])
    plain = socket.socket()
    if not reads:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(PATIENCE)
    plain.connect(("127.0.0.1", port))
    plain.sendall(handshake(path, port))
    told = b""
    while b"\r\n\r\n" not in told:
        told += plain.recv(1)
    return plain


def say(**message):
    return frame(TEXT, json.dumps(message).encode())


START = say(type="start", max_new_tokens=4) + say(type="session.configure", max_new_tokens=4)
ANNOUNCED = say(type="frame", timestamp=0) + say(type="input.frame", seq_no=0, timestamp=0.0, mime_type="image/jpeg")
CRUMB = frame(TEXT, b"", fin=False)


def frames(chance, count):
    """Frames of wild sizes, their times in no order."""
    sizes = [(1, 1), (64, 64), (3000, 1), (16, 900)]
    shown = [jpeg(size=size) for size in sizes] + [b"", b"\xff\xd8\xff", bytes(999)]
    told = [say(type="frame", timestamp=chance.choice([0, 1e8, chance.random(), -1, 1e300])) for _ in range(count)]
    return START + b"".join(one + frame(BINARY, chance.choice(shown)) for one in told)


ATTACKS = {
    "speaks never": (lambda chance: b"", None),
    "pings": (lambda chance: START + frame(PING, bytes(125)) * 10_000, None),
    "small messages": (lambda chance: START + say(type="ping") * 10_000, None),
    "frames at once": (lambda chance: frames(chance, 100), None),
    "binary in place of text": (lambda chance: frame(BINARY, b"{}") * 3, None),
    "no UTF-8": (lambda chance: frame(TEXT, b"\xff\xfe"), 1007),
    "no WebSocket": (lambda chance: b"\xff" + chance.randbytes(2000), 1002),
    "64 MiB": (lambda chance: START + frame(BINARY, bytes(64 << 20)), 1009),
    "64 MiB of JSON": (lambda chance: START + frame(TEXT, b"[" * (64 << 20)), 1009),
    "too many fragments": (
        lambda chance: frame(TEXT, b"", fin=False) + frame(CONT, bytes(999), fin=False) * 1400,
        1009,
    ),
    "fragments": (lambda chance: CRUMB + frame(CONT, b"[", fin=False) * 5000, None),
    "leaves in a message": (lambda chance: START + ANNOUNCED + frame(BINARY, jpeg())[: chance.randrange(300)], None),
    "leaves in a head": (lambda chance: START + frame(BINARY, bytes(70_000))[: chance.randrange(1, 9)], None),
    "too much JSON": (lambda chance: START + say(type="prompt", text="a" * (1 << 20)), None),
}


def attack(server, kind, chance):
    """Do it; read its end, if there must be one. The socket stays open, unless its client leaves."""
    made, code = ATTACKS[kind]
    plain = opened(server, chance.choice(PATHS), reads=code is not None)
    if code is not None:
        plain.sendall(made(chance))
        assert {code, NO_ROOM} & set(codes(plain)), kind
        return plain
    plain.setblocking(False)
    data = memoryview(made(chance))
    with suppress(BlockingIOError, ConnectionError):
        while data:
            data = data[plain.send(data) :]
    if kind.startswith("leaves"):
        plain.close()
    return plain


def codes(plain):
    """Read to the end; all that might be the code of the close."""
    told = b""
    while data := plain.recv(1 << 16):
        told += data
    return [int.from_bytes(told[place + 2 : place + 4], "big") for place in range(len(told)) if told[place] == 0x88]


def resident(server):
    told = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", told)[1])


def said(server, beside=()):
    """What a session says of frames, each of which it is shown after another client has done its worst."""
    with ExitStack() as stack, video(server) as client:
        configured(client, max_new_tokens=1)  # So that what is said depends on no clock.
        for number in range(COUNT):
            for attacked in islice(beside, 1):
                stack.enter_context(attacked)
            input_frame(client, number, until="processed")
        client.send("input.prompt", seq_no=COUNT, prompt="What is it?", final=True)
        assert client.closed() == 1000
    told = [one["delta"] for one in client.told if one["type"] == "response.text.delta"]
    return "".join(told), client.told[-1]["usage"]


def settled(server):
    waited(lambda: no_session(server), server)
    return sample(server, "pages_free"), sample(server, "requests_running")


def test_a_neighbour_of_hostile_clients_says_the_same_and_nothing_of_them_is_left(live):
    alone, chance = said(live), random.Random(COUNT)
    free, most = settled(live), 0
    for _ in range(2):
        kinds = chance.sample(list(ATTACKS) * COUNT, COUNT)
        assert said(live, (attack(live, kind, chance) for kind in kinds)) == alone
        assert settled(live) == free
        most, before = resident(live), most
    assert most < before + SLACK and "live session has failed" not in live.log


def test_clients_that_vanish_at_any_byte_leave_nothing(live):
    free, chance = settled(live), random.Random(VANISHING)
    whole = START + ANNOUNCED + frame(BINARY, jpeg()) + say(type="prompt", text="Why?") + say(type="interrupt")
    for _ in range(VANISHING):
        with opened(live, chance.choice(PATHS)) as plain, suppress(ConnectionError):
            if chance.random() < 0.5:  # As a machine that is switched off, and on again.
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            plain.sendall(whole[: chance.randrange(len(whole) + 1)])
    assert settled(live) == free and "live session has failed" not in live.log
