"""Waiters are admitted by priority, FIFO among equals."""

import random
import threading
import time

import pytest

from mossvl.sources.semaphore import PrioritySemaphore


def waiting(semaphore, priorities, admitted):
    """Threads that wait, begun one after another; each notes its number once it is admitted, and releases."""
    threads = []
    for number, priority in enumerate(priorities):

        def wait(number=number, priority=priority):
            semaphore.acquire(priority)
            admitted.append(number)
            semaphore.release()

        threads.append(threading.Thread(target=wait))
        threads[-1].start()
        while len(semaphore.waiting) <= number:
            time.sleep(0.001)
    return threads


@pytest.mark.parametrize("seed", range(5))
def test_waiters_are_admitted_in_order_however_long_they_wait(seed):
    priorities = [random.Random(seed).choice([-1, 0, 0, 0, 5]) for _ in range(12)]
    semaphore, admitted = PrioritySemaphore(1), []
    semaphore.acquire()
    threads = waiting(semaphore, priorities, admitted)
    time.sleep(0.2)  # Each has looked several times whether it is its turn.
    semaphore.release()
    for thread in threads:
        thread.join(60)
    assert admitted == sorted(range(12), key=lambda number: (priorities[number], number))
    assert semaphore.value == 1 and semaphore.waiting == []


def test_who_stops_waiting_leaves_the_turn_to_the_next():
    class Stopped(Exception):
        pass

    def stop():
        raise Stopped

    semaphore, admitted = PrioritySemaphore(1), []
    semaphore.acquire()
    threads = waiting(semaphore, [3], admitted)
    with pytest.raises(Stopped):
        semaphore.acquire(check=stop)
    assert admitted == []
    semaphore.release()
    threads[0].join(60)
    assert admitted == [0] and semaphore.value == 1


def test_as_many_acquire_as_its_value_says():
    semaphore = PrioritySemaphore(2)
    semaphore.acquire()
    semaphore.acquire()
    assert semaphore.value == 0
    semaphore.release()
    semaphore.acquire()
    assert semaphore.value == 0
