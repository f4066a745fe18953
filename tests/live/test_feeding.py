"""A session that is fed by a source: how the end of either becomes that of the other."""

import itertools
import threading

import pytest
from live_streams import picture, until

from mossvl.errors import InputError, MediaError
from mossvl.live.events import Closed, Decision, Dropped, Seen
from mossvl.live.sources import Frames, FrameSource

FAST = {"tokens_per_second": None, "max_new_tokens": 5}


class Endless(FrameSource):
    """A source that never gives a frame, or none after these."""

    def __init__(self, *frames):
        super().__init__("an endless source")
        self.frames, self.over = frames, threading.Event()

    def read(self):
        yield from self.frames
        self.stopped.wait()
        self.over.set()


@pytest.mark.parametrize("kind", [Frames, list, iter])
def test_where_the_source_ends_the_session_does(llm, kind):
    with llm.live("Watch.", **FAST) as session:
        session.watch(kind([(float(number), picture(number)) for number in range(4)]))
        events = list(session)
    assert [event.time for event in events if isinstance(event, Seen)] == [0, 1, 2, 3]
    assert events[-1].reason == "final"


def test_a_source_stops_with_its_session(llm):
    source = Endless((0.0, picture(0)))
    with llm.live("Watch.", **FAST) as session:
        session.watch(source)
        until(lambda: session.usage.vision)
    assert source.over.wait(20)


@pytest.mark.parametrize("lockstep", [True, False])
def test_a_source_stops_with_its_session_also_while_a_frame_waits(speaking, lockstep):
    source = Frames((float(number), picture(number)) for number in itertools.count())
    options = {"when_behind": "block", "queue": 1, "tokens_per_second": 1e-3, "ignore_eos": True}
    with speaking.live("Watch.", **options) as session:
        session.watch(source, lockstep=lockstep)
        until(lambda: session.usage.text_output)
    until(lambda: not [one for one in threading.enumerate() if one.name in ("mossvl-feeding", "mossvl-media")])


def test_the_error_of_a_source_ends_the_session_and_is_told(llm):
    def frames():
        yield 0.0, picture(0)
        raise MediaError("the camera is lost")

    with llm.live("Watch.", **FAST) as session:
        session.watch(frames())
        *_, closed = session
    assert isinstance(closed, Closed) and closed.reason == "error"
    assert isinstance(closed.error, MediaError) and session.error is closed.error


def test_in_lockstep_no_frame_comes_before_the_decision_on_the_last_one(llm):
    with llm.live("Watch.", when_behind="latest", tokens_per_slot=3, **FAST) as session:
        session.watch([(float(number), picture(number)) for number in range(6)], lockstep=True)
        events = [event for event in session if isinstance(event, Seen | Decision | Dropped)]
    assert [type(event) for event in events] == [Decision, *[Seen, Decision] * 6]
    assert [event.time for event in events[1:]] == [float(number) for number in range(6) for _ in "ab"]


def test_in_lockstep_a_frame_waits_for_the_answer_to_a_question_and_no_later_one_cuts_a_reply(speaking):
    def frames():
        for number in range(6):
            yield float(number), picture(number)
            if number == 2:  # It is asked while the session rests.
                until(lambda: session.decisions == 4)
                session.say("What?")

    options = {"when_behind": "block", "tokens_per_second": None, "tokens_per_slot": 3, "max_new_tokens": 5}
    with speaking.live("Watch.", ignore_eos=True, **options) as session:
        session.watch(frames(), lockstep=True)
        slots = sum(isinstance(event, Decision) for event in session)
    assert slots == 1 + 6 + 1 and session.usage.text_output == 3 * slots + 2  # The last reply goes on to its limit.


@pytest.mark.parametrize("source", ["clip.mp4", b"", 5, None])
def test_what_yields_no_frames_is_refused(llm, source):
    with llm.live("Watch.", **FAST) as session, pytest.raises(InputError, match="Playback"):
        session.watch(source)
