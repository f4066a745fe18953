"""What processes keep in a folder whose disk is full: what needs room is refused, and nothing else."""

import resource
from contextlib import contextmanager
from pathlib import Path

import pytest

from mossvl.errors import ResourceError
from mossvl.server.errors import RequestError
from mossvl.server.stored import StoredResponse, StoredResponses
from mossvl.server.uploads import Uploads


@contextmanager
def full():
    """Within, no file can grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def responses(tmp_path):
    made = StoredResponses(1 << 20, 60, 9, tmp_path)
    made.add(response(1))
    yield made
    made.close()


@pytest.fixture
def uploads(tmp_path):
    made = Uploads(1 << 20, 60, tmp_path)
    yield made
    made.close()


def response(number):
    return StoredResponse(id=f"resp_{number}", owner="", size=10, content={}, messages=[], previous=None)


def add(uploads, *pieces):
    incoming = uploads.begin("a.png")
    try:
        for piece in pieces:
            incoming.write(piece)
        return incoming.keep()
    finally:
        incoming.close()


def rows(store, table):
    return store._index.execute(f"SELECT id FROM {table}").fetchall()


def test_what_is_kept_can_be_used_and_listed(responses):
    used = responses.get("", "resp_1").used
    with full():
        assert responses.get("", "resp_1").used == used
        assert [one.id for one in responses.of("")] == ["resp_1"]
        with pytest.raises(RequestError, match="no stored response 'resp_2'"):
            responses.get("", "resp_2")
        with pytest.raises(RequestError):
            responses.get("another", "resp_1")
    assert responses.get("", "resp_1").used > used


def test_what_has_expired_is_not_there_though_it_cannot_be_removed(responses):
    responses.seconds = 0
    with full():
        assert responses.of("") == []
        with pytest.raises(RequestError):
            responses.get("", "resp_1")


def test_what_cannot_be_added_or_removed_is_an_error_and_changes_nothing(responses):
    with full():
        for work in (lambda: responses.add(response(2)), lambda: responses.remove("", "resp_1")):
            with pytest.raises(ResourceError, match="the index of responses cannot be changed"):
                work()
    assert rows(responses, "kept") == [("resp_1",)]
    responses.add(response(2))
    assert len(rows(responses, "kept")) == 2


def test_an_upload_that_is_cut_short_leaves_nothing_once_there_is_room(uploads):
    incoming = uploads.begin("a.png")
    incoming.write(b"x" * 1000)
    with full():
        with pytest.raises(ResourceError):
            incoming.write(b"x" * 100_000)
        incoming.close()
        with pytest.raises(ResourceError):
            uploads.begin("b.png")
    assert not list(Path(uploads.folder).iterdir())
    uploads.forget_old()
    assert rows(uploads, "reserved") == rows(uploads, "kept") == []
    assert add(uploads, b"x" * 1000).size == 1000


def test_an_upload_is_deleted_though_the_disk_is_full(uploads):
    kept, other = add(uploads, b"x" * 1000), add(uploads, b"y" * 1000)
    with full():
        uploads.remove("", kept.id)
        assert [one.id for one in uploads.of("")] == [other.id] and not kept.path.exists()
        for work in (uploads.get, uploads.remove):
            with pytest.raises(RequestError, match="there is no uploaded file"):
                work("", kept.id)
    uploads.forget_old()
    assert rows(uploads, "kept") == [(other.id,)] and uploads.get("", other.id).path.exists()


def test_the_error_of_a_full_disk_says_what_to_do(responses):
    responses._index.execute("PRAGMA max_page_count = 1")  # No more than there are.
    with pytest.raises(ResourceError, match=r"there is no room for temporary files; free space in their folder"):
        responses.add(response("2" * 100_000))
    assert rows(responses, "kept") == [("resp_1",)]
