"""Uploaded files: kept for a time and within a space, and gone with the server."""

import io
import os
from pathlib import Path

import pytest

from mossvl.server import uploads as module
from mossvl.server.errors import RequestError
from mossvl.server.uploads import Uploads


@pytest.fixture
def uploads():
    made = Uploads(space=100, seconds=60)
    yield made
    made.close()


def add(uploads, size, name="a.png"):
    return uploads.add(io.BytesIO(b"x" * size), name, size)


def test_a_file_is_kept_under_a_name_that_nobody_can_guess(uploads):
    one, other = add(uploads, 10), add(uploads, 10)
    assert one.id != other.id and len(one.id) > 32
    assert uploads.get(one.id).path.read_bytes() == b"x" * 10
    assert Path(one.path).parent == Path(uploads.folder)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\x00b.png", "", "a" * 400, "x.../../y"])
def test_a_senders_name_decides_nothing_but_the_suffix(uploads, name):
    assert os.path.dirname(os.path.realpath(add(uploads, 1, name).path)) == os.path.realpath(uploads.folder)


def test_the_files_that_were_used_least_lately_make_room(uploads):
    first, second = add(uploads, 40), add(uploads, 40)
    uploads.get(first.id)
    third = add(uploads, 40)
    assert {path.name for path in Path(uploads.folder).iterdir()} == {first.path.name, third.path.name}
    with pytest.raises(RequestError, match="upload it again"):
        uploads.get(second.id)


def test_a_file_is_forgotten_after_its_time(uploads, monkeypatch):
    file = add(uploads, 1)
    later = file.used + 61
    monkeypatch.setattr(module.time, "time", lambda: later)
    with pytest.raises(RequestError):
        uploads.get(file.id)
    assert not file.path.exists()


@pytest.mark.parametrize("size", [0, 101])
def test_an_empty_file_and_one_beyond_all_space_are_refused(uploads, size):
    with pytest.raises(RequestError):
        add(uploads, size)
    assert not list(Path(uploads.folder).iterdir())


def test_what_cannot_be_written_leaves_nothing(uploads):
    class Broken(io.BytesIO):
        def read(self, *_):
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        uploads.add(Broken(), "a.png", 10)
    assert not list(Path(uploads.folder).iterdir()) and not uploads._files


def test_nothing_is_left_at_the_end(uploads):
    add(uploads, 10)
    uploads.close()
    assert not Path(uploads.folder).exists()
