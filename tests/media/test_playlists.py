"""Files that name other files or servers, which nobody shall reach through them."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from mossvl.errors import MediaError
from mossvl.media.video import open_clip

from .clips import write_clip

INSIDE = "127.0.0.1"

INDIRECT = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.5,\n{target}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{target}'\nduration 0.5\n",
    "dash": """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"><Period><AdaptationSet
contentType="video"><Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL></Representation></AdaptationSet>
</Period></MPD>""",
    "sdp": "v=0\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "vobsub": "# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n",
}


@pytest.fixture
def untouched(tmp_path: Path) -> Iterator[Path]:
    """A clip that nobody may read during the test."""
    path = write_clip(tmp_path / "target.ts", 5)
    os.utime(path, (1, 2))
    yield path
    assert path.stat().st_atime == 1
    path.read_bytes()
    if path.stat().st_atime == 1:
        pytest.skip("this file system does not note who reads")


@pytest.mark.parametrize("kind", INDIRECT)
@pytest.mark.parametrize("suffix", ["m3u8", "mp4", "sub"])
@pytest.mark.parametrize("form", ["{0.name}", "{0}", "file:{0}", "file://{0}"])
def test_a_file_that_names_another_reaches_nothing(untouched: Path, kind: str, suffix: str, form: str) -> None:
    path = untouched.parent / f"list.{suffix}"
    path.write_text(INDIRECT[kind].format(target=form.format(untouched)))
    with pytest.raises(MediaError, match="or a playlist of other files"):
        open_clip(path)


@pytest.mark.parametrize("kind", INDIRECT)
def test_a_playlist_calls_no_server(kind: str, tmp_path: Path) -> None:
    with socket.create_server((INSIDE, 0)) as listener:
        path = tmp_path / "list"
        path.write_text(INDIRECT[kind].format(target=f"http://{INSIDE}:{listener.getsockname()[1]}/part.ts"))
        with pytest.raises(MediaError):
            open_clip(path)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_name_that_is_a_pattern_is_one_file(tmp_path: Path, untouched: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "frame%d.png")
    os.rename(untouched, tmp_path / "frame1.png")
    try:
        with pytest.raises(MediaError):
            open_clip(tmp_path / "frame%d.png")
    finally:
        os.rename(tmp_path / "frame1.png", untouched)
    path = write_clip(tmp_path / "clip%d.mp4", 5)
    with open_clip(path) as clip:
        assert clip.num_frames == 5
