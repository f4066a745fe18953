"""Works of several threads: results in order, bounds, and callers that never depend on others."""

import os
import threading

import pytest

from mossvl.processing import crew
from mossvl.processing.crew import Work, in_order

SECONDS = 60
THREADS = min(crew.cores(), crew.MOST_THREADS)


@pytest.fixture(autouse=True)
def own_pool():
    """A pool of its own for each test."""
    crew.renew()
    yield
    crew.renew()


def within(function):
    """What a function returns in a thread, which may not hang."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()), daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert found, "a caller hangs, or has failed"
    return found[0]


@pytest.fixture
def occupied():
    """All threads of the pool hang until the end of the test."""
    go, begun = threading.Event(), threading.Semaphore(0)

    def hang():
        begun.release()
        go.wait(SECONDS)

    hanging = [crew._pool().submit(hang) for _ in range(THREADS)]
    for _ in hanging:
        begun.acquire(timeout=SECONDS)
    yield
    go.set()


@pytest.mark.parametrize("most", [1, 2, 5])
def test_results_are_in_the_order_of_the_works(most):
    works = (Work(lambda number=number: number) for number in range(200))
    assert list(in_order(works, most)) == list(range(200))


@pytest.mark.parametrize(("most", "ahead", "bound"), [(1, 100, 1), (3, 100, 4), (50, 20, 3), (50, 5, 1)])
def test_works_ahead_are_bounded_by_number_and_bytes(most, ahead, bound):
    made, taken, waiting = [], 0, []

    def works():
        for number in range(40):
            made.append(number)
            waiting.append(len(made) - taken)
            yield Work(lambda: None, 10)

    for _ in in_order(works(), most, ahead):
        taken += 1
    assert taken == 40 and max(waiting) <= bound


def test_works_run_beside_each_other():
    """As many as there are threads: each waits for all."""
    meeting = threading.Barrier(THREADS, timeout=SECONDS)
    assert sorted(in_order([Work(meeting.wait)] * THREADS, THREADS + 1)) == list(range(THREADS))


@pytest.mark.parametrize("most", [1, 3])
def test_the_first_failure_ends_the_works(most):
    begun = []

    def fail(number):
        begun.append(number)
        if number >= 5:
            raise ValueError(number)
        return number

    works, found = (Work(lambda number=number: fail(number)) for number in range(100)), []
    with pytest.raises(ValueError, match=r"^5$"):
        found.extend(in_order(works, most))
    assert max(begun) <= 5 + most


def test_a_caller_that_leaves_waits_for_what_has_begun():
    ended = []
    results = in_order((Work(lambda: ended.append(1)) for _ in range(100)), 4)
    next(results)
    results.close()
    count = len(ended)
    assert crew._pool().submit(lambda: len(ended)).result(SECONDS) == count < 100


def test_a_caller_does_itself_what_no_thread_begins(occupied):
    works = (Work(lambda number=number: number) for number in range(20))
    assert within(lambda: list(in_order(works, 4))) == list(range(20))


def test_works_that_call_for_works_end():
    def outer(number):
        return sum(in_order((Work(lambda one=one: one * number) for one in range(5)), 3))

    works = [Work(lambda number=number: outer(number)) for number in range(4 * THREADS)]
    assert within(lambda: list(in_order(works, len(works)))) == [10 * number for number in range(4 * THREADS)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    assert list(in_order([Work(os.getpid)] * 4, 3)) == [os.getpid()] * 4
    child = os.fork()
    if not child:
        meeting = threading.Barrier(THREADS, timeout=SECONDS)
        try:
            met = sorted(in_order([Work(meeting.wait)] * THREADS, THREADS + 1))
            os._exit(0 if met == list(range(THREADS)) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
