"""Uploaded files: kept for a time and within a space, and gone with the server."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mossvl.errors import ResourceError
from mossvl.server import keeping as module
from mossvl.server.errors import RequestError
from mossvl.server.uploads import Uploads


@pytest.fixture
def uploads():
    made = Uploads(space=100, seconds=60)
    yield made
    made.close()


def add(uploads, size, name="a.png"):
    with closing(uploads.begin(name)) as incoming:
        for start in range(0, size, 7):
            incoming.write(b"x" * min(7, size - start))
        return incoming.keep()


def left(uploads):
    return {path.name for path in Path(uploads.folder).iterdir()}


def test_a_file_is_kept_under_a_name_that_nobody_can_guess(uploads):
    one, other = add(uploads, 10), add(uploads, 10)
    assert one.id != other.id and len(one.id) > 32
    assert uploads.get("", one.id).path.read_bytes() == b"x" * 10
    assert Path(one.path).parent == Path(uploads.folder)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\x00b.png", "", "a" * 400, "x.../../y"])
def test_a_senders_name_decides_nothing_but_the_suffix(uploads, name):
    assert os.path.dirname(os.path.realpath(add(uploads, 1, name).path)) == os.path.realpath(uploads.folder)


def test_the_files_that_were_used_least_lately_make_room(uploads):
    first, second = add(uploads, 40), add(uploads, 40)
    uploads.get("", first.id)
    third = add(uploads, 40)
    assert {path.name for path in Path(uploads.folder).iterdir()} == {first.path.name, third.path.name}
    with pytest.raises(RequestError, match="upload it again"):
        uploads.get("", second.id)


def test_a_file_is_forgotten_after_its_time(uploads, monkeypatch):
    file = add(uploads, 1)
    later = file.used + 61
    monkeypatch.setattr(module.time, "time", lambda: later)
    with pytest.raises(RequestError):
        uploads.get("", file.id)
    assert not file.path.exists()


@pytest.mark.parametrize("size", [0, 101])
def test_an_empty_file_and_one_beyond_all_space_are_refused(uploads, size):
    with pytest.raises(RequestError):
        add(uploads, size)
    assert not list(Path(uploads.folder).iterdir())


def test_what_does_not_come_to_its_end_leaves_nothing(uploads):
    kept = add(uploads, 60)
    with closing(uploads.begin("a.png")) as incoming:
        incoming.write(b"x" * 30)
    assert left(uploads) == {kept.path.name}
    add(uploads, 40)
    assert uploads.get("", kept.id).path == kept.path, "room that was claimed for what did not come is given back"


def test_files_that_are_coming_have_their_room_at_once(uploads):
    kept = add(uploads, 40)
    with closing(uploads.begin("a.png")) as one, closing(uploads.begin("b.png")) as other:
        one.write(b"x" * 30)
        other.write(b"x" * 30)
        assert uploads.get("", kept.id)
        other.write(b"x")
        with pytest.raises(RequestError):
            uploads.get("", kept.id)


def test_a_full_disk_is_the_machines_fault_and_leaves_nothing(uploads):
    incoming = uploads.begin("a.png")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, incoming._file.fileno())
    os.close(full)
    incoming.write(b"x")
    with pytest.raises(ResourceError, match=r"no room .* \(No space left on device\)"), closing(incoming):
        incoming.keep()
    assert not left(uploads)
    add(uploads, 100)


def test_processes_share_a_folder_its_space_and_its_files(tmp_path):
    with closing(Uploads(100, 60, tmp_path)) as one, closing(Uploads(100, 60, tmp_path)) as other:
        first = add(one, 60)
        assert other.get("", first.id).path.read_bytes() == b"x" * 60
        second = add(other, 50)
        with pytest.raises(RequestError):
            one.get("", first.id)
        assert not first.path.exists() and one.get("", second.id).size == 50
        with closing(one.begin("a.png")) as incoming:
            incoming.write(b"x" * 60)
            with pytest.raises(RequestError):
                other.get("", second.id)


def test_what_a_dead_process_has_left_is_removed_and_its_room_given_back(tmp_path):
    with closing(Uploads(100, 60, tmp_path)) as uploads:
        incoming = uploads.begin("a.png")
        incoming.write(b"x" * 90)
        uploads.forget_old()
        assert left(uploads) == {incoming._path.name}
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        uploads._index.execute("UPDATE reserved SET process = ?", (dead.pid,))
        uploads.forget_old()
        assert not left(uploads)
        kept = [add(uploads, 50), add(uploads, 50)]
        assert all(uploads.get("", one.id) for one in kept)
