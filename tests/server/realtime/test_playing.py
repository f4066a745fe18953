"""Files of the server that are played as if they were live."""

import shutil

import pytest
from live_sockets import pushed, simple, started
from running import serving


@pytest.fixture(scope="module")
def playing(tmp_path_factory):
    """A server with a folder of videos, which is not its working folder."""
    folder = tmp_path_factory.mktemp("videos")
    shutil.copy("examples/clip.mp4", folder / "a.mp4")
    (folder / "broken.mp4").write_text("no video")
    with serving("--allow-media-dir", str(folder)) as running:
        yield running, folder


def test_a_file_that_cannot_be_played_is_told_and_no_other_is_looked_for(playing):
    server, folder = playing
    with simple(server) as client:
        started(client)
        outside = "/etc/passwd", "../../../etc/passwd", f"{folder}/../none.mp4", "none.mp4", "pyproject.toml", "a\0.mp4"
        for path in outside:
            client.send("video", path=path)
            assert "not a file that may be read here" in client.until("error")["message"]
        for path, fields in (("broken.mp4", {}), ("a.mp4", {"timestamps": [1.0, 99.0]}), ("", {})):
            client.send("video", path=path, **fields)
            client.until("error")
        assert "video_started" not in client.kinds() and "video_end" not in client.kinds()
        pushed(client, timestamp=0)


@pytest.mark.parametrize("form", ["a.mp4", "{}/a.mp4", "file://{}/a.mp4"])
def test_a_file_below_an_allowed_folder_is_played(playing, form):
    server, folder = playing
    path = form.format(folder)
    with simple(server) as client:
        started(client)
        client.send("video", path=path, playback_speed=0, max_frames=3)
        assert client.until("video_started") == {"type": "video_started", "path": path}
        assert client.until("video_end") == {"type": "video_end", "frames_sent": 3, "frames_dropped": 0}


def test_a_file_is_played_and_stopped(playing):
    with simple(playing[0]) as client:
        started(client)
        client.send("video", path="a.mp4", timestamps=[3.0, 4.0], playback_speed=0.001)
        client.until("video_started")
        client.send("stop_video")
        client.until("stop_video_ack")
        assert client.until("video_end")["frames_sent"] <= 1
