"""Checks of the files and folders that arguments name; none imports what takes seconds to import."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mossvl.checkpoints.default import with_tiny
from mossvl.checkpoints.location import check_location, check_trained
from mossvl.cli.flags import Checked
from mossvl.data.files import other_form, shards_of
from mossvl.data.tables import table_format
from mossvl.disk import check_new
from mossvl.errors import DataError, InputError, MediaError
from mossvl.media.fetch import is_remote, local_file
from mossvl.media.limits import MediaLimits

PREFIXES = ("image:", "video:")
"""What may stand before a medium, and says of which kind it is."""
CAMERA = re.compile(r"camera(?::(?P<address>.+))?")
STREAMS = {"rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "tcp", "rtp"}
"""Schemes of URLs that are cameras; of http(s) URLs, those that do not end like a file are."""


def existing(what: str, fits: Callable[[Path], bool]) -> Checked:
    """Return the check of a path that is to exist; `what` is expected there, and `fits` tells whether it is that."""

    def check(given: str | Path) -> None:
        path = Path(given)
        if not path.exists():
            raise InputError(f"{given}: no such file or folder; expected {what}")
        if not fits(path):
            raise InputError(f"{given} is a {'folder' if path.is_dir() else 'file'}; expected {what}")
        if not os.access(path, os.R_OK):
            raise InputError(f"{given}: cannot be read (permission denied); expected {what}")

    return Checked(check)


def _check_new_file(path: Path) -> None:
    """Refuse a file that cannot be written.

    Raises:
        InputError: it is a folder, its folder does not exist, or nothing may be written there.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: cannot be written (there is no folder {path.parent}); make it, or name another")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written (permission denied); name another file")


def _check_output(path: Path) -> None:
    """Refuse a folder that cannot be written into, nor made."""
    above = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not above.is_dir():
        raise InputError(f"{path} cannot be made a folder: {above} is a file; name another folder")
    if not os.access(above, os.W_OK):
        raise InputError(f"{path}: cannot be written (permission denied); name another folder")


def _check_new_folder(path: Path) -> None:
    check_new(path)
    _check_output(path)


def _check_records(path: Path) -> None:
    """Refuse a missing file of records, and one of another form; a folder's files are looked at as they are read.

    Raises:
        DataError: it is missing or of another form.
    """
    shards_of(path)
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            wrong = None if table_format(path) else other_form(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a file of records") from error
    if wrong is not None:
        raise DataError(f"{path}: {wrong}")


def check_medium(argument: str) -> None:
    """Refuse `[image:|video:]PATH-OR-URL[#t=TIME]` whose file is missing.

    Raises:
        MediaError: there is no such file, or it cannot be read.
    """
    if os.path.isfile(argument):
        return
    source, _, _ = re.sub(rf"^({'|'.join(PREFIXES)})", "", argument).partition("#t=")
    name, mark, _ = argument.partition("#")
    if mark and not os.path.exists(source) and os.path.isfile(name):
        raise MediaError(f"{argument}: no such file; a part of {name} is written {name}#t=START,END, in seconds")
    if not is_remote(source):
        with local_file(source, MediaLimits()):
            pass


def _check_asked(argument: str) -> None:
    """As `check_medium`; a shell takes a question without quotes, or a name with spaces, for several arguments.

    Raises:
        MediaError: there is no such file, or it cannot be read.
    """
    try:
        check_medium(argument)
    except MediaError as error:
        if Path(argument).suffix or os.path.lexists(argument):
            raise
        raise MediaError(
            f"{argument}: no such file; expected images and videos, and then the question: put it in quotes, and names "
            "with spaces, too"
        ) from error


def check_source(argument: str) -> None:
    """Refuse a missing file, before what reads it is imported.

    Raises:
        MediaError: there is no such file, or it cannot be read.
    """
    if argument and argument != "screen" and not CAMERA.fullmatch(argument) and not is_camera(argument):
        if not Path(argument).is_dir():
            check_medium(f"video:{argument.removeprefix('video:')}")


def is_camera(argument: str) -> bool:
    """Whether an argument without a prefix is a device or the URL of a camera."""
    if re.fullmatch(r"/dev/video\d+", argument):
        return True
    scheme = urlsplit(argument).scheme.lower() if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", argument) else ""
    if scheme in ("http", "https"):
        return not Path(urlsplit(argument).path).suffix
    return scheme in STREAMS


def named_adapter(given: str) -> tuple[str | None, str]:
    """Return the name and the path of NAME=PATH; a path alone, also one with = that exists, has no name: None."""
    name, named, path = given.partition("=")
    return (name, path) if named and not os.path.exists(given) else (None, given)


def _check_adapter(given: str) -> None:
    _, path = named_adapter(given)
    check_location(path or given, "an adapter (LoRA)")


def _check_checkpoint(given: Any) -> None:
    check_location(with_tiny(given))


FOLDER = existing("a folder", Path.is_dir)
FILE = existing("a file", Path.is_file)
NEW_FILE, OUTPUT, NEW_FOLDER = Checked(_check_new_file), Checked(_check_output), Checked(_check_new_folder)
RECORDS, MEDIUM, SOURCE = Checked(_check_records), Checked(check_medium), Checked(check_source)
ASKED = Checked(_check_asked)
CHECKPOINT, ADAPTER, TRAINED = Checked(_check_checkpoint), Checked(_check_adapter), Checked(check_trained)
