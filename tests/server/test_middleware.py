"""Bodies of requests: how large, how slow, and how many at a time."""

import asyncio

import pytest

from mossvl.server.errors import RequestError
from mossvl.server.middleware import Body, Room


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
