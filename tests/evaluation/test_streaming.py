"""A session is shown a clip frame by frame, and what it says is scored by when it begins."""

import pytest
from PIL import Image

from mossvl.errors import GenerationTimeout, InputError
from mossvl.evaluation.streaming import Decision, Due, Reply, Score, Step, drive, pooled, replies, score

BLACK = Image.new("RGB", (8, 8))
SILENT = Decision("")


class Scripted:
    """A session whose decisions are given; `log` has all that happens to it."""

    def __init__(self, decisions, log=None):
        self.decisions, self.log = iter(decisions), [] if log is None else log

    def push_frame(self, image, timestamp):
        self.log.append(("frame", timestamp, image.size))

    def push_prompt(self, text):
        self.log.append(("prompt", text))

    def decision(self, timeout):
        decided = next(self.decisions)
        if isinstance(decided, Exception):
            raise decided
        self.log.append(("decided", timeout))
        return decided

    def close(self):
        self.log.append("closed")


def clip(*times, log=None):
    for time in times:
        if log is not None:
            log.append(("decoded", time))
        yield time, BLACK


def test_a_frame_is_taken_and_pushed_after_the_decision_at_the_one_before():
    log = []
    decisions = [SILENT, Decision("A red", goes_on=True), Decision(" car.")]
    steps = list(drive(Scripted(decisions, log), clip(0.0, 1.0, 2.5, log=log), timeout=7))
    assert steps == list(zip([0.0, 1.0, 2.5], decisions, strict=True))
    each = [[("decoded", time), ("frame", time, (8, 8)), ("decided", 7)] for time in (0.0, 1.0, 2.5)]
    assert log == [*each[0], *each[1], *each[2], "closed"]


def test_prompts_are_said_before_the_first_frame_of_their_time_or_later():
    session = Scripted([SILENT] * 3)
    list(drive(session, clip(0, 1, 2), [(1.5, "And now?"), (0, "Tell me."), (1, "Look.")]))
    said = [one[1] for one in session.log if one[0] in ("frame", "prompt")]
    assert said == ["Tell me.", 0, "Look.", 1, "And now?", 2]


def test_a_prompt_that_no_frame_follows_is_an_error():
    session = Scripted([SILENT])
    with pytest.raises(InputError, match=r"no frame follows the prompt at 1 s, 'Late'"):
        list(drive(session, clip(0), [(1, "Late")]))
    assert session.log[-1] == "closed"


@pytest.mark.parametrize("times", [(1, 1), (2, 1), (0, float("nan")), (float("nan"), 0)])
def test_frames_whose_times_do_not_ascend_are_refused(times):
    session = Scripted([SILENT] * 2)
    with pytest.raises(InputError, match="must ascend"):
        list(drive(session, clip(*times)))
    assert session.log[-1] == "closed"


def test_a_session_that_fails_is_closed_and_its_error_raised_after_the_steps_before():
    session = Scripted([SILENT, GenerationTimeout("too late")])
    steps = drive(session, clip(0, 1, 2))
    assert next(steps) == (0, SILENT)
    with pytest.raises(GenerationTimeout, match="too late"):
        next(steps)
    assert session.log[-1] == "closed" and ("frame", 2, (8, 8)) not in session.log


def test_a_session_is_closed_when_its_steps_are_left():
    session = Scripted([SILENT] * 2)
    steps = drive(session, clip(0, 1))
    next(steps)
    steps.close()
    assert session.log[-1] == "closed"


def test_texts_of_neighbouring_frames_are_a_reply_until_it_ends():
    decisions = [
        Decision("", goes_on=True), Decision("A car", goes_on=True), Decision("", goes_on=True), Decision("."),
        Decision("Another."), SILENT, Decision("", goes_on=True), SILENT, Decision("Last", goes_on=True),
    ]  # fmt: skip
    steps = list(drive(Scripted(decisions), clip(*range(9))))
    assert replies(steps) == [Reply(0, 3, "A car."), Reply(4, 4, "Another."), Reply(8, 8, "Last")]


@pytest.mark.parametrize(
    ("begins", "due", "expected"),
    [
        ([1, 5], [(1, 2), (4, 6)], Score(1.0, 1.0, 0.5)),
        ([2, 3, 9], [(2, 4), (20, 30)], Score(1 / 3, 1 / 2, 0.0)),
        ([5, 8], [(0, 9), (4, 6)], Score(1.0, 1.0, 4.5)),  # The first meets what ends first.
        ([8, 5], [(0, 9), (4, 6)], Score(1.0, 1.0, 4.5)),
        ([3], [(0, 2)], Score(0.0, 0.0, None)),
        ([], [(0, 2)], Score(None, 0.0, None)),
        ([3], [], Score(0.0, None, None)),
        ([], [], Score(None, None, None)),
    ],
)
def test_scores_match_each_reply_with_what_was_due_then(begins, due, expected):
    assert score([Reply(time, time + 1, "a") for time in begins], [Due(*one) for one in due]) == expected


def test_a_prompt_ends_a_reply_that_would_have_gone_on():
    steps = [Step(time, Decision(text, goes_on=True)) for time, text in enumerate(["A", " car", "No", "."])]
    assert replies(steps, [(3, "Now?"), (1.5, "What?"), (0, "Watch.")]) == [
        Reply(0, 1, "A car"), Reply(2, 2, "No"), Reply(3, 3, "."),
    ]  # fmt: skip


def test_scores_of_several_streams_are_pooled_and_a_reply_meets_only_what_is_due_in_its_own():
    streams = [([Reply(1, 1, "a"), Reply(9, 9, "b")], [Due(0, 2, "a")]), ([], [Due(9, 9)]), ([], [])]
    assert pooled(streams) == Score(1 / 2, 1 / 2, 1.0, 1.0)
    assert pooled([]) == Score(None, None, None, None)


def test_a_reply_is_right_if_it_says_what_it_should():
    due = [Due(0, 0, "a"), Due(1, 1, "b"), Due(2, 2), Due(3, 3, "d")]
    assert score([Reply(0, 0, "a"), Reply(1, 1, "x"), Reply(2, 2, "y")], due) == Score(1.0, 3 / 4, 0.0, 1 / 2)
