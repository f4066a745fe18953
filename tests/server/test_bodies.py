"""Bodies of requests: how large they may be, alone and together, and how slow."""

import asyncio

import pytest

from mossvl.server.errors import RequestError
from mossvl.server.middleware import Body, Room

from .guarded import Application, Guarded, refusal

FORM = 1 << 20
"""Bytes that an upload may have beside its file."""


def body(pieces, room=None, most=100, stall=60.0, more=False):
    """A body that comes in such pieces; `more` are promised that never come."""
    left = list(pieces)

    async def receive():
        if not left:
            await asyncio.sleep(3600)
        piece = left.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(left) or more}

    return Body(receive, room or Room(1000), most, stall)


async def read(body, pieces):
    return b"".join([(await body.receive())["body"] for _ in range(pieces)])


def test_a_body_comes_as_it_was_sent_and_its_room_is_given_back():
    room = Room(1000)
    one = body([b"ab", b"", b"cd"], room)
    assert asyncio.run(read(one, 3)) == b"abcd"
    assert room.used == 4
    one.close()
    assert room.used == 0


@pytest.mark.parametrize("pieces", [[b"x" * 101], [b"x" * 60, b"x" * 60]])
def test_a_body_that_is_too_large_is_refused(pieces):
    with pytest.raises(RequestError) as refused:
        asyncio.run(read(body(pieces), len(pieces)))
    assert refused.value.status == 413
    with pytest.raises(RequestError):
        body([]).expect(101)


def test_bodies_that_are_too_large_together_are_told_to_come_again():
    room = Room(150)
    first, second = body([b"x" * 100], room), body([b"x" * 100], room)
    asyncio.run(read(first, 1))
    with pytest.raises(RequestError) as refused:
        asyncio.run(read(second, 1))
    assert (refused.value.status, refused.value.code) == (503, "overloaded")
    first.close()
    second.close()
    assert room.used == 0


def test_a_body_that_stops_coming_is_given_up():
    with pytest.raises(RequestError) as refused:
        asyncio.run(read(body([b"x"], stall=0.05, more=True), 2))
    assert refused.value.status == 408


def test_a_client_that_leaves_within_its_body_is_told_of():
    left = {"type": "http.disconnect"}

    async def receive():
        return left

    assert asyncio.run(Body(receive, Room(1), 1, 60.0).receive()) == left


def test_what_comes_after_a_body_may_take_its_time_and_no_room():
    room, messages = Room(1000), [{"type": "http.request", "body": b"abcd"}, {"type": "http.disconnect"}]

    async def receive():
        if len(messages) == 1:
            await asyncio.sleep(0.1)
        return messages.pop(0)

    async def both():
        one = Body(receive, room, 100, 0.01)
        return [await one.receive(), await one.receive()]

    assert asyncio.run(both())[1] == {"type": "http.disconnect"}
    assert room.used == 4


@pytest.mark.parametrize(
    ("path", "flag", "most"), [("/v1/chat/completions", "--max-body", 100), ("/v1/files", "--max-download", 300)]
)
@pytest.mark.parametrize("told", [True, False])
def test_a_request_may_be_as_large_as_its_path_allows(path, flag, most, told):
    most += FORM * (path == "/v1/files")
    guarded = Guarded(max_body=100, max_download=300)

    def send(size):
        async def pieces():
            for start in range(0, size, 50_000):
                yield b"x" * min(50_000, size - start)

        return guarded.ask(path, "POST", content=b"x" * size if told else pieces())

    assert send(most).text == str(most)
    message = refusal(send(most + 1), 413, "too_large")
    assert f" {most} bytes ({flag})" in message
    assert len(guarded.application.asked) == (1 if told else 2)  # One that says how long it is need not be read.
    assert guarded.used() == (0, 0)


@pytest.mark.parametrize("length", ["x", "-5", ""])
def test_a_length_that_is_no_number_is_not_relied_on(length):
    assert Guarded(max_body=100).ask(method="POST", content=b"abc", headers={"content-length": length}).text == "3"


def test_uploads_and_other_requests_have_rooms_of_their_own():
    guarded = Guarded(body_space=10, upload_space=20)
    assert "try again later" in refusal(guarded.ask(method="POST", content=b"x" * 11), 503, "overloaded")
    assert guarded.ask(method="POST", content=b"x" * 10).text == "10"
    assert guarded.ask("/v1/files", "POST", content=b"x" * (20 + FORM)).status_code == 200
    refusal(guarded.ask("/v1/files", "POST", content=b"x" * (21 + FORM)), 503, "overloaded")
    assert guarded.used() == (0, 0)


def test_a_body_takes_room_until_its_request_has_ended():
    during = []

    class Watching(Application):
        async def answer(self, scope, send, content):
            during.append(guarded.used())
            await super().answer(scope, send, content)

    guarded = Guarded(Watching())
    guarded.ask(method="POST", content=b"abc")
    guarded.ask("/v1/files", "POST", content=b"abcd")
    assert during == [(3, 0), (0, 4)]
    assert guarded.used() == (0, 0)


def test_a_client_that_stalls_is_told_so():
    guarded = Guarded(stall_timeout=0.05)

    async def pieces():
        yield b"x"
        await asyncio.sleep(3600)

    assert "0.05 seconds" in refusal(guarded.ask(method="POST", content=pieces()), 408, "too_slow")
