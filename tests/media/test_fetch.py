import base64
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import mossvl
from mossvl.errors import GenerationTimeout, MediaError
from mossvl.media.fetch import file_version, local_file, source_name
from mossvl.media.image import load_image
from mossvl.media.limits import MediaLimits
from mossvl.media.video import open_clip

LIMITS = MediaLimits(download_bytes=1 << 20, timeout=20)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, to see what is left in it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def fetch(source: str | Path, limits: MediaLimits = LIMITS) -> bytes:
    with local_file(source, limits) as path:
        return path.read_bytes()


def test_a_path_is_given_back_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a b.png"
    path.write_bytes(b"data")
    with local_file(path, LIMITS) as found:
        assert found == path


def test_a_file_url_names_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a b.png"
    path.write_bytes(b"data")
    assert fetch(path.as_uri()) == b"data"


def test_a_file_url_of_another_machine_is_refused() -> None:
    with pytest.raises(MediaError, match="this machine"):
        fetch("file://elsewhere/a.png")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"missing\.mp4: no such file"):
        fetch(tmp_path / "missing.mp4")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is a folder; give the path of an image or a video"):
        fetch(tmp_path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(MediaError, match="empty"):
        fetch(tmp_path / "empty.mp4")


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_name_that_cannot_be_a_path_is_refused(name: str) -> None:
    with pytest.raises(MediaError, match="cannot be opened"):
        fetch(name)


def test_a_url_is_downloaded(server: str, golden: Path) -> None:
    assert fetch(f"{server}/small.png") == (golden / "media" / "small.png").read_bytes()


def test_a_redirect_is_followed(server: str, golden: Path) -> None:
    assert fetch(f"{server}/once") == (golden / "media" / "small.png").read_bytes()


def test_as_many_redirects_are_followed_as_the_limit_says(server: str, golden: Path) -> None:
    small = (golden / "media" / "small.png").read_bytes()
    assert fetch(f"{server}/hops?5") == small
    assert fetch(f"{server}/hops?7", MediaLimits(redirects=7)) == small
    assert fetch(f"{server}/small.png", MediaLimits(redirects=0)) == small
    with pytest.raises(MediaError, match="more than 0 redirects"):
        fetch(f"{server}/once", MediaLimits(redirects=0))


def test_the_body_of_a_redirect_is_not_read(server: str, golden: Path) -> None:
    assert fetch(f"{server}/large-hop") == (golden / "media" / "small.png").read_bytes()


def test_what_is_zipped_unasked_is_unzipped(server: str, golden: Path) -> None:
    assert fetch(f"{server}/zipped") == (golden / "media" / "small.png").read_bytes()


def test_a_download_is_removed_afterwards(server: str, temporary: Path) -> None:
    with local_file(f"{server}/small.png", LIMITS) as path:
        assert path.parent == temporary
    assert list(temporary.iterdir()) == []


def test_a_failed_download_leaves_nothing(server: str, temporary: Path) -> None:
    with pytest.raises(MediaError):
        fetch(f"{server}/is-large")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing-here", "404"),
        ("loop", "more than 5 redirects"),
        ("hops?6", "more than 5 redirects"),
        ("to?file:///etc/hosts", "scheme"),
        ("to?ftp://127.0.0.1/a.png", "scheme"),
        ("to?http://[", "download failed"),
        ("empty", "empty"),
        ("says-large", "larger than 1048576 bytes"),
        ("is-large", "larger than 1048576 bytes"),
        ("zip-large", "larger than 1048576 bytes"),
        ("zip-twice", "content encoding gzip, gzip"),
        ("zip-cut", "cut off"),
        ("zip-broken", "download failed"),
        ("cut", "download failed"),
    ],
)
def test_a_bad_answer_says_what_is_wrong(server: str, path: str, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        fetch(f"{server}/{path}")


@pytest.mark.parametrize("path", ["slow-body", "slow-header"])
def test_a_slow_server_is_left_when_time_is_up(server: str, path: str) -> None:
    begun = time.monotonic()
    with pytest.raises(GenerationTimeout, match=path):
        fetch(f"{server}/{path}", MediaLimits(timeout=0.3))
    assert time.monotonic() - begun < 3


def test_nobody_there_is_a_media_error(server: str) -> None:
    with pytest.raises(MediaError, match="download failed"):
        fetch("http://127.0.0.1:9/a.png")


def test_other_schemes_are_refused() -> None:
    with pytest.raises(MediaError, match="scheme"):
        fetch("ftp://127.0.0.1/a.png")


@pytest.mark.parametrize(
    "url", ["http://[::1/a.png", "http://", "http://a:b/", "http://\u2603.\xad/", "file://[", "file://"]
)
def test_a_malformed_url_is_a_media_error(url: str) -> None:
    with pytest.raises(MediaError):
        fetch(url)
    assert source_name(url)
    assert file_version(url) is None


def test_the_query_of_a_url_is_not_shown(server: str) -> None:
    assert "secret" not in source_name(f"{server}/small.png?key=secret")


@pytest.mark.parametrize("url", ["data:text/plain;base64," + base64.b64encode(b"a b").decode(), "data:,a%20b"])
def test_a_data_url_holds_its_data(url: str) -> None:
    assert fetch(url) == b"a b"


DATA = bytes(range(240, 256)) + b"?>>"  # needs the letters + and / and one =


@pytest.mark.parametrize(
    "url",
    [
        "DATA:image/png;base64,{}",
        "data:image/png;BASE64,{}",
        "data:image/png; base64,{}",
        "data:image/png;base64 ,{}",
        "data:image/png;name=a.png;base64,{}",
        "data:;base64,{}",
        "data:image/png;base64, {}",
        " \n data:image/png;base64,{}\n",
        "da\nta:image/png;base64,{}",
        "data:image/png;base64,{}#t=1",
    ],
)
def test_a_data_url_is_read_however_it_is_written(url: str) -> None:
    text = base64.b64encode(DATA).decode()
    assert fetch(url.format(text)) == DATA


@pytest.mark.parametrize(
    "text",
    [
        base64.encodebytes(DATA).decode().replace("\n", "\r\n"),
        " ".join(base64.b64encode(DATA).decode()),
        base64.b64encode(DATA).decode().rstrip("="),
        base64.urlsafe_b64encode(DATA).decode(),
        base64.b64encode(DATA).decode().replace("+", "%2B").replace("/", "%2f").replace("=", "%3D"),
    ],
    ids=["lines", "spaces", "no padding", "letters for URLs", "percent"],
)
def test_base64_is_read_however_it_is_written(text: str) -> None:
    assert fetch(f"data:image/png;base64,{text}") == DATA


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("Data:image/png;base64", "no comma"),
        (" data:image/png;Base64,AAA*", "not valid base64"),
        ("data:image/png;base64,AAAAA", "not valid base64"),
        ("data:image/png;base64,AA=A", "not valid base64"),
        ("data:image/png;base64,AAA\ud800", "not valid base64"),
    ],
)
def test_a_broken_data_url_is_called_one(url: str, problem: str) -> None:
    with pytest.raises(MediaError, match=f"data URL: {problem}"):
        fetch(url)


def test_downloads_say_who_asks(server: str) -> None:
    assert fetch(f"{server}/agent") == f"mossvl/{mossvl.__version__}".encode()


@pytest.mark.parametrize("url", ["data:image/png;base64", "data:image/png;base64,####", "data:,"])
def test_a_malformed_data_url_is_refused(url: str) -> None:
    with pytest.raises(MediaError):
        fetch(url)


def test_a_data_url_over_the_limit_is_refused() -> None:
    with pytest.raises(MediaError, match="larger than 10 bytes"):
        fetch("data:,01234567890", MediaLimits(download_bytes=10))


def test_an_image_is_loaded_from_a_url(server: str) -> None:
    assert load_image(f"{server}/small.png").shape == (3, 40, 40)


def test_a_clip_from_a_url_keeps_its_file_until_closed(server: str, temporary: Path) -> None:
    with open_clip(f"{server}/clip_portrait.webm") as clip:
        assert next(clip.read([30])).shape == (160, 96, 3)
        assert next(clip.read([40])).shape == (160, 96, 3)
    assert list(temporary.iterdir()) == []


def test_a_download_that_is_no_video_leaves_nothing(server: str, temporary: Path) -> None:
    with pytest.raises(MediaError):
        open_clip("data:,nonsense")
    assert list(temporary.iterdir()) == []
