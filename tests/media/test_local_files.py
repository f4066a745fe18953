"""Which files of this machine a stranger may name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mossvl.errors import MediaError
from mossvl.media.fetch import local_file
from mossvl.media.image import load_image, open_image
from mossvl.media.limits import MediaLimits, SourcePolicy
from mossvl.media.video import open_clip


def limits(**policy: Any) -> MediaLimits:
    return MediaLimits(download_bytes=1 << 20, timeout=20, sources=SourcePolicy(**policy))


def fetch(source: str | Path, allowed: MediaLimits) -> bytes:
    with local_file(source, allowed) as path:
        return path.read_bytes()


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    """A directory with a file, beside another one that holds a secret."""
    for name in ("allowed", "allowed-not"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(name.encode())
    return tmp_path / "allowed"


def test_without_a_policy_any_file_is_read(allowed: Path) -> None:
    assert fetch(allowed / "file", MediaLimits()) == b"allowed"


@pytest.mark.parametrize("form", [str, Path, Path.as_uri, lambda path: path.parent / "." / ".." / "allowed" / "file"])
def test_a_file_in_an_allowed_directory_is_read(allowed: Path, form: Callable[[Path], str | Path]) -> None:
    assert fetch(form(allowed / "file"), limits(directories=("/nowhere", allowed))) == b"allowed"


def test_a_relative_path_is_read_from_a_relative_directory(allowed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(allowed.parent)
    assert fetch("allowed/file", limits(directories=("allowed",))) == b"allowed"


def test_links_may_lead_to_and_into_an_allowed_directory(allowed: Path) -> None:
    (allowed.parent / "link").symlink_to(allowed)
    assert fetch(allowed.parent / "link" / "file", limits(directories=(allowed,))) == b"allowed"
    assert fetch(allowed / "file", limits(directories=(allowed.parent / "link",))) == b"allowed"


@pytest.mark.parametrize(
    "name", ["../allowed-not/file", "link", "folder/file", "chain", "/etc/hosts", "..", "../missing", "gone", "a\0b"]
)
@pytest.mark.parametrize("form", ["path", "url"])
def test_a_file_outside_is_refused_whether_it_exists_or_not(allowed: Path, name: str, form: str) -> None:
    (allowed / "link").symlink_to("../allowed-not/file")
    (allowed / "folder").symlink_to(allowed.parent / "allowed-not")
    (allowed / "chain").symlink_to("link")
    (allowed / "gone").symlink_to("../missing")
    source = f"{allowed}/{name}" if name[0] != "/" else name
    source = f"file://{source}".replace("\0", "%00") if form == "url" else source
    with pytest.raises(MediaError, match="not a file that may be read here; give a file from an allowed directory"):
        fetch(source, limits(directories=(allowed,)))


@pytest.mark.parametrize("name", ["file", "missing"])
def test_with_no_directory_no_file_is_read(allowed: Path, name: str) -> None:
    for source in (str(allowed / name), (allowed / name).as_uri()):
        with pytest.raises(MediaError, match="not a file that may be read here; give a URL"):
            fetch(source, limits(directories=()))


def test_a_missing_file_in_an_allowed_directory_is_named_as_it_was_given(allowed: Path) -> None:
    (allowed.parent / "link").symlink_to(allowed)
    with pytest.raises(MediaError, match="link/missing: no such file"):
        fetch(allowed.parent / "link" / "missing", limits(directories=(allowed,)))


def test_a_policy_on_files_lets_urls_be(server: str, golden: Path) -> None:
    assert fetch(f"{server}/small.png", limits(directories=())) == (golden / "media" / "small.png").read_bytes()
    assert fetch("data:,text", limits(directories=(), public_only=True, domains=("example.org",))) == b"text"


def test_data_urls_stay_bounded() -> None:
    with pytest.raises(MediaError, match="larger than 1048576 bytes"):
        fetch("data:," + "x" * (1 << 20) + "y", limits(directories=(), public_only=True))


@pytest.mark.parametrize("read", [load_image, open_clip, lambda source, limits: open_clip([(0.0, source)], limits)])
def test_the_policy_holds_for_images_videos_and_frames(golden: Path, read: Callable[..., Any]) -> None:
    path = golden / "media" / "small.png"
    read(str(path), limits(directories=(golden,)))
    for source in (str(path), path.as_uri(), "http://127.0.0.1/a.png"):
        with pytest.raises(MediaError, match=r"may be read here|public internet"):
            read(source, limits(directories=(), public_only=True))


def test_the_policy_holds_for_frames_after_the_first(golden: Path) -> None:
    first = open_image(golden / "media" / "small.png")
    with (
        open_clip([(0.0, first), (1.0, str(golden / "media" / "small.png"))], limits(directories=())) as clip,
        pytest.raises(MediaError, match="may be read here"),
    ):
        list(clip.read([0, 1]))
