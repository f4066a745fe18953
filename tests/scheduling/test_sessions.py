"""Live sessions come before others, keep what they reserved, and leave the others their turn."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mossvl.errors import SessionLimitError
from mossvl.options.engine import EngineConfig
from mossvl.scheduling.reservations import Reservations

from .asked import Asked
from .machine import Machine
from .sessions import LiveTrace, Sessions
from .traces import Setting

SETTINGS = st.builds(
    Setting,
    seed=st.integers(0, 2**32),
    page_size=st.sampled_from([2, 4, 8, 1]),
    pages=st.sampled_from([60, 100, 200]),
    groups=st.sampled_from([1, 2, 3]),
    max_batch=st.sampled_from([8, 4, 2]),
    chunk=st.sampled_from([1000, 8, 3, 1]),
    mixed=st.sampled_from([100, 8, 2, 1]),
    requests=st.integers(0, 8),
    overlap=st.booleans(),
    keep=st.booleans(),
    cancelled=st.sampled_from([0, 0, 0.05]),
    failing=st.sampled_from([0, 0, 0, 0.05]),
    late=st.sampled_from([0, 0.3, 1]),
    formed=st.sampled_from([0, 0.3]),
    growing=st.sampled_from([0, 0.5]),
    ranked=st.sampled_from([0, 0.5]),
    salted=st.just(0),
    vision_size=st.sampled_from([0, 1, 2, 8]),
)
SESSIONS = st.builds(
    Sessions,
    count=st.integers(1, 6),
    frames=st.integers(1, 12),
    window=st.integers(1, 4),
    rows=st.sampled_from([24, 40]),
    modest=st.sampled_from([0, 0.5, 1]),
    killed=st.sampled_from([0, 0.01]),
)


@given(SETTINGS, SESSIONS)
@settings(max_examples=2 * settings.default.max_examples)
def test_every_row_of_a_session_reads_what_its_window_holds_and_every_page_comes_back(setting, sessions):
    LiveTrace(setting, sessions).run()


@pytest.mark.parametrize("overlap", [False, True], ids=["", "overlapping"])
@pytest.mark.parametrize("pages", [9000, 1000], ids=["roomy", "short of pages"])
def test_64_sessions_and_64_requests_leave_no_page(overlap, pages):
    setting = Setting(
        seed=pages + overlap, page_size=4, pages=pages, groups=3, max_batch=160, chunk=64, mixed=32, requests=64,
        overlap=overlap, keep=True, cancelled=0.02, failing=0, late=0.3, formed=0.1, growing=0.2, ranked=0.3,
    )  # fmt: skip
    trace = LiveTrace(setting, Sessions(64, 20, window=3, rows=48, modest=0.8, killed=0.01))
    trace.run()
    assert trace.begun == 64 and sum(one.rolled for one in trace.live) > 20
    assert bool(trace.refused) == (pages == 1000)


def test_500_sessions_that_are_killed_leave_no_page():
    setting = Setting(
        seed=5, page_size=4, pages=600, groups=2, max_batch=16, chunk=64, mixed=16, requests=100, overlap=True,
        keep=True, cancelled=0.1, failing=0, late=0.5, formed=0.1, growing=0.2,
    )  # fmt: skip
    trace = LiveTrace(setting, Sessions(500, 1000, window=2, rows=40, modest=0.5, killed=0.2))
    trace.run()
    assert trace.begun == 500
    assert all(one.left > 0 for one in trace.live), "none came to its end"


def session(room: int = 1, **options) -> Asked:
    return Asked([1], room, live=True, **options)


def watch(one: Asked, picture: bytes = b"d", room: int = 1) -> None:
    """Give a session a frame, and let it speak."""
    one.later = [[5, picture, 6]]
    one.extend(room)
    one.request.resume()


def resting(machine: Machine, *sessions: Asked) -> None:
    machine.ask(*sessions)
    while not all(one.request.rests for one in sessions):
        machine.step()


def test_a_segment_does_not_wait_behind_a_long_prompt():
    machine = Machine(400, max_batch=8, prefill_tokens=16, mixed_prefill_tokens=16, mixed_vision_patches=64)
    one, long = session(), Asked(list(range(300)))
    resting(machine, one)
    machine.ask(long)
    for _ in range(3):
        machine.step()
    watch(one)
    step = machine.step()
    assert [part.request for part in step.prefill] == [one.request, long.request]
    assert step.prefill[0].draws


def test_beside_a_session_that_rests_steps_are_as_short_as_beside_others_that_decode():
    machine = Machine(400, max_batch=8, prefill_tokens=64, mixed_prefill_tokens=8)
    one, long = session(), Asked(list(range(300)))
    resting(machine, one)
    machine.ask(long)
    assert [part.stop - part.start for part in machine.step().prefill] == [8]


def test_frames_of_several_sessions_are_encoded_in_one_step():
    machine = Machine(400, max_batch=8, mixed_vision_patches=64)
    sessions = [session() for _ in range(3)]
    resting(machine, *sessions)
    for one in sessions:
        watch(one)
    step = machine.step()
    assert [part.request for part in step.frames] == [one.request for one in sessions]
    assert [part.draws for part in step.prefill] == [True] * 3


def test_of_sessions_the_one_that_has_waited_longest_comes_first():
    machine = Machine(400, max_batch=8, mixed_vision_patches=16)
    first, second = session(), session()
    resting(machine, first, second)
    watch(first)
    watch(second)
    machine.step()
    watch(first)
    steps = [machine.step(), machine.step()]
    assert [[part.request for part in step.frames] for step in steps] == [[second.request], [first.request]]


@pytest.mark.parametrize("ends", [True, False], ids=["ended", "preempted"])
def test_a_session_that_stops_before_it_has_drawn_is_not_kept_in_the_order_of_turns(ends):
    machine = Machine(100, max_batch=4, prefill_tokens=4)
    one = Asked(list(range(40)), live=True)
    machine.ask(one)
    machine.step()
    assert one.request in machine.scheduler._since
    (machine.scheduler.remove if ends else machine.scheduler._preempt)(one.request)
    assert not machine.scheduler._since


def test_128_sessions_decode_in_one_step():
    machine = Machine(2000, max_batch=160)
    sessions = [session(room=3) for _ in range(128)]
    resting(machine, *sessions)
    assert any(len(step.decode) == 128 for step in machine.steps)


def test_a_session_that_goes_on_without_more_takes_a_row_beside_those_that_decode():
    machine = Machine(100, max_batch=4)
    one = session()
    resting(machine, one)
    one.request.max_answer += 1
    one.request.resume()
    assert machine.step().decode == [one.request]


def test_a_session_takes_the_place_and_the_pages_of_the_newest_other():
    machine = Machine(40, max_batch=2, keep=False)
    old, new = Asked(list(range(8)), room=40), Asked(list(range(9)), room=40)
    machine.ask(old, new)
    machine.step()
    one = session(reserved=20)
    machine.ask(one)
    machine.step()
    assert one.request.slot >= 0 and old.request.slot >= 0 and new.request.preemptions == 1


def test_a_session_beyond_its_reservation_makes_room_for_one_within_its_own():
    machine = Machine(12, max_batch=4, keep=False)
    greedy, modest = session(reserved=1), session(reserved=9)
    resting(machine, greedy, modest)
    for _ in range(4):
        watch(greedy)
        machine.step()
    greedy.request.leave(1)
    for _ in range(3):
        watch(modest)
        machine.step()
    assert greedy.request.ended and modest.request.preemptions == 0
    assert any(step.lost == [greedy.request] for step in machine.steps)


def excessive(machine: Machine, frames: int = 4) -> Asked:
    """A session that has seen so many frames and rests, with a page reserved."""
    one = session(reserved=1)
    resting(machine, one)
    for _ in range(frames):
        watch(one)
        machine.step()
    return one


def test_a_session_that_finds_no_room_beyond_its_reservation_is_lost_and_stops_nobody():
    machine = Machine(40, max_batch=4, keep=False)
    greedy = excessive(machine)
    modest = session(reserved=34)
    resting(machine, modest)
    while not greedy.request.preemptions:
        watch(modest)
        machine.step()
    ordinary = [Asked([number], room=9) for number in range(2)]
    machine.ask(ordinary[0])
    machine.step()
    machine.ask(ordinary[1])
    watch(greedy)
    step = machine.step()
    assert step.lost == [greedy.request] and greedy.request.ended
    assert not ordinary[0].request.preemptions and ordinary[1].request.slot >= 0


def test_a_session_without_room_beyond_its_reservation_preempts_nobody_in_vain():
    machine = Machine(40, max_batch=4, keep=False)
    modest = session(reserved=30)
    resting(machine, modest)
    for _ in range(12):
        watch(modest)
        machine.step()
    ordinary, last = Asked([1], room=9), Asked([2], room=9)
    huge = Asked(list(range(100)), live=True, reserved=1)
    machine.ask(ordinary)
    machine.step()
    machine.ask(huge, last)
    machine.step()
    assert not ordinary.request.preemptions and last.request.slot >= 0 and huge.request in machine.scheduler.waiting


def test_a_session_that_grows_beyond_what_there_is_for_it_preempts_nobody_in_vain():
    machine = Machine(40, max_batch=4, keep=False)
    greedy, modest, ordinary = session(reserved=1), session(reserved=30), Asked([1], room=99)
    resting(machine, greedy, modest)
    for _ in range(12):
        watch(modest)
        machine.step()
    machine.ask(ordinary)
    machine.step()
    greedy.later = [[5] * 80]
    greedy.extend(1)
    greedy.request.resume()
    machine.step()
    assert greedy.request.preemptions == 1
    assert not ordinary.request.preemptions and ordinary.request.slot >= 0


@pytest.mark.parametrize("running", [False, True], ids=["admitted", "growing"])
def test_a_request_takes_what_a_session_has_beyond_its_reservation_when_nothing_else_is_left(running):
    machine = Machine(12, max_batch=4, keep=False)
    greedy = excessive(machine)
    one = Asked([1] if running else list(range(36)), room=36 if running else 4)
    machine.ask(one)
    for _ in range(200):
        if not one.finished:
            machine.step()
    assert one.finished and not one.request.preemptions
    assert greedy.request.preemptions == 1 and greedy.request.sleeps


def test_a_session_does_not_take_back_what_a_request_took_of_it():
    machine = Machine(16, max_batch=4, keep=False)
    greedy, one = excessive(machine), Asked(list(range(44)), room=4)
    machine.ask(one)
    while not greedy.request.preemptions:
        machine.step()
    watch(greedy)
    step = machine.step()
    assert step.lost == [greedy.request] and one.request.slot >= 0 and not one.request.preemptions


def test_pages_of_frames_that_have_left_are_used_again_at_once():
    machine = Machine(60, max_batch=1, keep=False)
    one = session(reserved=60)
    resting(machine, one)
    for number in range(30):
        one.request.leave(max(0, number - 2))
        watch(one)
        machine.step()
        assert one.request.freed == 5 * max(0, number - 2) // 4
        assert len(one.request.vision_pages) == -(-5 * (number + 1) // 4) - one.request.freed


# --- reservations ----------------------------------------------------------------------------------------------------


def test_sessions_are_refused_that_memory_does_not_hold():
    reservations = Reservations(100, EngineConfig())
    assert [reservations.reserve(40), reservations.reserve(40)] == [40, 40]
    with pytest.raises(SessionLimitError, match=r"holds 2 live sessions like this one, of 40 pages each: 2 are open"):
        reservations.reserve(40)
    reservations.give_back(40)
    assert reservations.reserve(40) == 40


def test_sessions_are_refused_beyond_their_number():
    reservations = Reservations(100, EngineConfig(max_sessions=1))
    reservations.reserve(1)
    with pytest.raises(SessionLimitError, match="1 live sessions are open, and no more may be"):
        reservations.reserve(1)


def test_one_session_may_reserve_all_that_there_is_for_sessions():
    reservations = Reservations(100, EngineConfig())
    assert reservations.reserve(1000) == 90
    reservations.give_back(90)
    assert reservations.pages == reservations.sessions == 0
