"""Requests to a front, and what it says of its replicas."""

import json

import httpx
from replicas.stand_ins import PATIENCE, waited
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

CLIENT = httpx.Client(timeout=PATIENCE, limits=httpx.Limits(max_keepalive_connections=32))
"""For all threads: to make one takes longer than a request."""
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


def ready(front, count):
    """Wait until so many replicas take requests."""
    waited(lambda: list(states(front).values()).count("ready") >= count)


def states(front):
    return CLIENT.get(f"{front.url}/health").json()["replicas"]


def who(front, **options):
    return CLIENT.get(f"{front.url}/who", **options).json()


def conversation(text, *before, **fields):
    return {"messages": [*before, {"role": "user", "content": text}], **fields}


def ask(front, text, path=CHAT, **fields):
    return CLIENT.post(f"{front.url}{path}", json=conversation(text, **fields))


def streamed(front, text, path=CHAT, **fields):
    """The lines of a stream, without empty ones."""
    given = conversation(text, stream=True, **fields)
    with CLIENT.stream("POST", f"{front.url}{path}", json=given) as response:
        return [line for line in response.iter_lines() if line]


def processes(front):
    """Replica → its process, of those that are ready."""
    found = {}
    while len(found) < list(states(front).values()).count("ready"):
        one = who(front)
        found[one["replica"]] = one["process"]
    return found


def socket_of(front):
    return connect(f"ws{front.url.removeprefix('http')}/v1/realtime", max_size=None)


def until_closed(live):
    """All messages, and the code with which the socket was closed then."""
    told = []
    try:
        while True:
            told.append(json.loads(live.recv(PATIENCE)))
    except ConnectionClosed as closed:
        return told, closed.rcvd.code
