"""Folders of a process: none is left for long by one that was killed, and none of a living one is touched."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mossvl.disk import OwnFolder

HOLDER = """
import sys, time
from mossvl.disk import OwnFolder
made = OwnFolder("mossvl-test-")
(made.path / "0.sock").write_text("")
print(made.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def holder(place):
    """A process with a folder of its own, and this folder."""
    given = {"env": os.environ | {"TMPDIR": str(place)}, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDER], text=True, **given) as process:
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_the_folder_of_a_living_process_stays_and_that_of_a_killed_one_is_removed_by_the_next(holder):
    process, other = holder
    with OwnFolder("mossvl-test-") as own, OwnFolder("mossvl-test-") as second:
        assert other.exists() and own.exists() and own != second
    os.kill(process.pid, signal.SIGSTOP)
    with OwnFolder("mossvl-test-"):
        assert other.exists()
    process.kill()
    process.wait()
    with OwnFolder("mossvl-another-"):
        assert other.exists()
    with OwnFolder("mossvl-test-") as own:
        assert own.exists() and not other.exists()
    assert not own.exists()


def test_a_process_that_ends_removes_its_folder(holder):
    process, other = holder
    process.communicate("")
    assert process.returncode == 0 and not other.exists()


def test_what_is_no_folder_of_this_kind_is_left_alone(place):
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("")
    (place / "mossvl-test-link").symlink_to(elsewhere)
    (place / "mossvl-test-file").write_text("")
    OwnFolder("mossvl-test-").close()
    assert (elsewhere / "kept").exists() and (place / "mossvl-test-file").exists()
