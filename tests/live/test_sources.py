"""Sources of live frames: which frames they give, at which times, and how they end."""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image, ImageGrab

from mossvl.errors import InputError, MediaError, MossVLError, OptionError
from mossvl.live.sources import Camera, Folder, Found, Frames, Lost, Playback, Screen, Skipped
from tests.media.clips import write_clip

PATIENCE = 60


class Still:
    """A clock on which waiting takes no time; `now` moves by what was waited for, and by `tick` at each look."""

    def __init__(self, tick=0.0):
        self.time, self.tick, self.waits = 0.0, tick, []

    def now(self):
        self.time += self.tick
        return self.time

    def wait(self, seconds, stopped):
        self.waits.append(max(0.0, seconds))
        self.time += max(0.0, seconds)
        return stopped.is_set()


@pytest.fixture
def clip(tmp_path):
    """Forty frames, ten a second; the grey value of a square tells the number."""
    return write_clip(tmp_path / "clip.mp4", 40, gop=10)


def numbers(frames):
    return [round(float(pixels[8, 8].mean()) / 7) for _, pixels in frames]


def times(frames):
    return [round(time, 3) for time, _ in frames]


# --- a file ----------------------------------------------------------------------------------------------------------


def test_a_file_gives_one_frame_a_second_at_its_own_pace(clip):
    clock = Still()
    with Playback(clip, clock=clock) as source:
        frames = list(source)
    assert times(frames) == [0, 1, 2, 3] and numbers(frames) == [0, 10, 20, 30]
    assert clock.time == pytest.approx(3)


@pytest.mark.parametrize(("pace", "seconds"), [(1, 2), (4, 0.5), (0.5, 4)])
def test_the_pace_is_how_many_seconds_of_the_file_a_second_has(clip, pace, seconds):
    clock = Still()
    with Playback(clip, segment=(1, 3.5), pace=pace, clock=clock) as source:
        assert times(list(source)) == [1, 2, 3]
    assert clock.time == pytest.approx(seconds)


def test_without_a_pace_nothing_is_waited_for(clip):
    clock = Still()
    with Playback(clip, fps=None, pace=None, clock=clock) as source:
        frames = list(source)
    assert times(frames)[:3] == [0, 0.1, 0.2] and len(frames) == len(source) == 40 and clock.waits == []


def test_a_frame_that_is_shown_for_long_comes_once(clip):
    with Playback(clip, fps=25, segment=(0, 0.4), pace=None) as source:
        assert times(list(source)) == [0, 0.1, 0.2, 0.3]


def test_an_instant_is_one_frame(clip):
    with Playback(clip, segment=(2.04,), pace=None) as source:
        assert times(list(source)) == [2.0]


def test_a_late_reader_gets_every_frame_of_a_file(clip):
    with Playback(clip, fps=10, clock=Still()) as source:
        frames = iter(source)
        first = next(frames)
        assert times([first, *frames]) == [number / 10 for number in range(40)]


@pytest.mark.parametrize("option", ["fps", "pace"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), "fast", True])
def test_a_pace_or_rate_that_is_none_is_refused(clip, option, value):
    with pytest.raises(OptionError, match=option):
        Playback(clip, **{option: value})


@pytest.mark.parametrize("segment", [(), (1, 2, 3), (2, 1), (-1, 2), (5, 6), (float("nan"),), ("1", 2), 3])
def test_a_segment_that_is_no_part_of_the_file_is_refused(clip, segment):
    with pytest.raises(MediaError, match="segment"):
        Playback(clip, segment=segment)


def test_an_instant_that_is_not_in_the_file_is_refused(clip):
    with pytest.raises(MediaError, match=r"\[999\.0\] lies outside the video"):
        Playback(clip, times=[0.0, 999.0])


@pytest.mark.parametrize("most", [-1, 0, 1.5, "3", True])
def test_a_number_of_frames_that_is_none_is_refused(clip, most):
    with pytest.raises(OptionError, match="most"):
        Playback(clip, most=most)


def test_a_file_that_is_no_video_is_an_error_before_anything_is_read(tmp_path):
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(MediaError, match=r"notes\.mp4"):
        Playback(tmp_path / "notes.mp4")


# --- stopping --------------------------------------------------------------------------------------------------------


def test_stopping_ends_an_iteration_that_waits(clip):
    source = Playback(clip, pace=1e-6)
    got, taken = [], threading.Event()

    def read():
        for frame in source:
            got.append(frame)
            taken.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert taken.wait(PATIENCE)
    source.stop()
    reader.join(PATIENCE)
    assert not reader.is_alive() and len(got) == 1
    source.close()


def test_an_iterator_that_never_gives_a_frame_is_left_at_once():
    forever = threading.Event()

    def blocked():
        forever.wait()
        yield

    source = Frames(blocked())
    ending = threading.Timer(0.01, source.stop)
    ending.start()
    assert list(source) == []
    forever.set()


def test_no_frame_comes_after_the_stop(clip):
    with Playback(clip, pace=None) as source:
        frames = iter(source)
        next(frames)
        source.stop()
        assert list(frames) == []


def test_frames_are_read_once(clip):
    with Playback(clip, pace=None) as source:
        assert len(list(source)) == 4
        with pytest.raises(InputError, match="once"):
            iter(source)


# --- an iterator -----------------------------------------------------------------------------------------------------


def test_an_iterator_may_give_times_or_leave_them_to_the_clock():
    clock = Still(tick=0.5)
    with Frames(["a", (3.0, "b"), {"timestamp": 3.0, "image": "c"}], clock=clock) as source:
        (first, a), *rest = source
    assert a == "a" and first >= 0 and rest == [(3.0, "b"), (3.0, "c")]


def test_images_alone_are_spaced_by_the_rate():
    clock = Still()
    with Frames("abc", fps=4, clock=clock) as source:
        assert list(source) == [(0.0, "a"), (0.25, "b"), (0.5, "c")]
    assert clock.time == pytest.approx(0.5)


def test_a_time_that_goes_back_is_an_error_after_the_frames_before_it():
    with Frames([(1, "a"), (0.5, "b")]) as source:
        frames = iter(source)
        assert next(frames) == (1, "a")
        with pytest.raises(InputError, match=r"frame 1 has the time 0\.5"):
            next(frames)
        assert list(frames) == []


@pytest.mark.parametrize(("raised", "told"), [(ZeroDivisionError, ZeroDivisionError), (SystemExit, MediaError)])
def test_an_error_of_the_iterator_is_the_readers(raised, told):
    def broken():
        yield 0.0, "a"
        raise raised

    with Frames(broken()) as source:
        frames = iter(source)
        assert next(frames) == (0.0, "a")
        with pytest.raises(told, match="SystemExit" if raised is SystemExit else None):
            next(frames)


# --- a folder --------------------------------------------------------------------------------------------------------


def put(path, grey, nanoseconds):
    Image.new("RGB", (8, 8), (grey,) * 3).save(path)
    os.utime(path, ns=(nanoseconds, nanoseconds))


class Writing(Still):
    """Does the next of `works` between two looks at the folder, and ends the reading after the last one."""

    def __init__(self, *works):
        super().__init__()
        self.works = list(works)

    def wait(self, seconds, stopped):
        if not self.works:
            return True
        self.works.pop(0)()
        return stopped.is_set()


def test_a_folder_gives_its_images_in_the_order_of_their_times(tmp_path):
    put(tmp_path / "b.png", 1, 1_000_000_000)
    put(tmp_path / "a.png", 2, 3_500_000_000)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".c.png").write_text("hidden")
    later = lambda: put(tmp_path / "0.png", 3, 4_000_000_000)  # noqa: E731
    with Folder(tmp_path, clock=Writing(later, int, int)) as source:
        frames = list(source)
    assert times(frames) == [0, 2.5, 3] and [int(pixels[0, 0, 0]) for _, pixels in frames] == [1, 2, 3]


def test_an_image_that_is_being_written_waits_until_it_is_complete(tmp_path):
    whole = tmp_path / "whole"
    put(whole.with_suffix(".bmp"), 7, 10**9)
    data = whole.with_suffix(".bmp").read_bytes()
    folder = tmp_path / "folder"
    folder.mkdir()
    part = folder / "a.bmp"
    part.write_bytes(data[:20])
    told = []
    works = (lambda: part.write_bytes(data[:60]), lambda: part.write_bytes(data), int, int)
    with Folder(folder, told=told.append, clock=Writing(*works)) as source:
        frames = list(source)
    assert [int(pixels[0, 0, 0]) for _, pixels in frames] == [7] and told == []


def test_a_file_that_is_no_image_is_told_once_and_tried_again_when_it_changes(tmp_path):
    bad = tmp_path / "a.png"
    bad.write_text("no image")
    told = []
    works = (int, int, int, lambda: put(bad, 9, 10**9), int, int)
    with Folder(tmp_path, told=told.append, clock=Writing(*works)) as source:
        frames = list(source)
    assert [type(event) for event in told] == [Skipped] and told[0].file == "a.png"
    assert told[0].to_dict().keys() == {"event", "source", "file", "reason"}
    assert [int(pixels[0, 0, 0]) for _, pixels in frames] == [9]


def test_a_folder_that_is_not_there_or_vanishes_is_an_error(tmp_path):
    with pytest.raises(MediaError, match="no such folder"):
        Folder(tmp_path / "none")
    (tmp_path / "some").mkdir()
    clock = Writing((tmp_path / "some").rmdir)
    with Folder(tmp_path / "some", clock=clock) as source, pytest.raises(MediaError, match="cannot be read"):
        list(source)


# --- the screen ------------------------------------------------------------------------------------------------------


def test_the_screen_is_looked_at_as_often_as_asked():
    looks = []

    def grab():
        looks.append(None)
        return Image.new("RGBA", (4, 2), (len(looks), 0, 0, 255))

    clock = Still()
    with Screen(fps=2, grab=grab, clock=clock) as source:
        frames = iter(source)
        time, pixels = next(frames)
        assert pixels.shape == (2, 4, 3) and time % 0.5 == 0
        later, _ = next(frames)
        assert later > time and later % 0.5 == 0


def test_without_a_screen_the_error_says_what_is_needed(monkeypatch):
    def refuse(**_):
        raise OSError("X connection failed")

    monkeypatch.setattr(ImageGrab, "grab", refuse)
    with pytest.raises(MediaError, match="X11 display"):
        Screen()


# --- a camera --------------------------------------------------------------------------------------------------------


class Cameras(BaseHTTPRequestHandler):
    """A camera that gives its stream `turns` times, and is gone then."""

    def do_GET(self):
        if self.server.turns <= 0:
            self.send_error(503)
            return
        self.server.turns -= 1
        self.send_response(200)
        self.send_header("content-type", "video/mp2t")
        self.end_headers()
        self.wfile.write(self.server.stream)

    def log_message(self, *_):
        pass


@pytest.fixture
def network(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    web = ThreadingHTTPServer(("127.0.0.1", 0), Cameras)
    web.daemon_threads = True
    web.stream = write_clip(tmp_path / "camera.ts", 30, gop=5).read_bytes()
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield web
    web.shutdown()
    thread.join()
    web.server_close()


def address(web):
    return f"http://127.0.0.1:{web.server_port}/live"


def until_lost(camera):
    """The frames of a camera until it fails, and its error."""
    frames = []
    try:
        for frame in camera:
            frames.append(frame)  # noqa: PERF402  # `extend` would lose those before the error.
    except MediaError as error:
        return frames, error
    raise AssertionError("it has not failed")


def test_a_lost_camera_is_connected_again_and_given_up_after_so_many_attempts(network):
    network.turns = 3
    told, clock = [], Still(tick=1e-3)
    with Camera(address(network), fps=None, retries=3, told=told.append, clock=clock) as source:
        frames, error = until_lost(source)
    assert "not found again in 3 attempts" in str(error)
    kinds = [(type(event), getattr(event, "attempt", None)) for event in told]
    again = [(Lost, 1), (Found, None)]
    assert kinds == [*again, *again, (Lost, 1), (Lost, 2), (Lost, 3)]
    assert clock.waits == [1, 1, 1, 2, 4]
    assert frames and frames[0][1].shape == (48, 64, 3)
    assert times(frames) == sorted(times(frames))


def test_a_camera_gives_so_many_frames_a_second_of_the_clock(network):
    network.turns = 1
    clock = Still(tick=0.01)
    with Camera(address(network), fps=5, retries=0, clock=clock) as source:
        source.lossless = True  # So that every frame is seen here.
        frames, _ = until_lost(source)
    gaps = np.diff(times(frames))
    assert len(frames) > 2 and gaps.min() >= 0.15 and gaps.max() <= 0.25


def test_a_camera_that_is_not_there_is_an_error_at_once(network):
    network.turns = 0
    with pytest.raises(MediaError, match="cannot be opened"):
        Camera(address(network))
    with pytest.raises(MediaError, match="camera /dev/video63"):
        Camera("/dev/video63")


def test_the_password_of_a_camera_is_in_no_message(network):
    network.turns = 0
    with pytest.raises(MossVLError) as failed:
        Camera(address(network).replace("//", "//user:secret@") + "?token=secret")
    assert "secret" not in str(failed.value)
