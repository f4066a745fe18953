"""Timers that are begun for each token."""

import asyncio

from mossvl.queries.silence import Silence


def seconds_of_calls(begins, until, span=0.05):
    """When it calls back, in seconds, if begun at these times; the loop's clock is simulated."""

    async def run():
        loop = asyncio.get_running_loop()
        now, calls, timers = [0.0], [], []
        loop.time = lambda: now[0]
        loop.call_at = lambda due, call: timers.append((due, call)) or timers
        silence = Silence(span, lambda: calls.append(round(now[0], 6)))
        for begin in [*begins, until]:
            while timers and timers[0][0] <= begin:
                now[0], call = timers.pop(0)
                call()
            now[0] = begin
            if begin < until:
                silence.begin()
        assert len(timers) == 1, "one timer, however often it was begun"
        del loop.time, loop.call_at
        return calls

    return asyncio.run(run())


def test_it_calls_after_each_span_without_a_begin():
    assert seconds_of_calls([0.0], 0.16) == [0.05, 0.10, 0.15]


def test_it_does_not_call_while_it_is_begun_often_enough():
    assert seconds_of_calls([number * 0.01 for number in range(100)], 1.03) == []


def test_a_span_counts_from_the_last_begin():
    assert seconds_of_calls([0.0, 0.02, 0.04], 0.1) == [0.09]
    assert seconds_of_calls([0.0, 0.07], 0.13) == [0.05, 0.12]


def test_once_ended_it_never_calls():
    async def run():
        calls = []
        silence = Silence(0.01, lambda: calls.append(1))
        silence.begin()
        silence.end()
        await asyncio.sleep(0.05)
        return calls

    assert asyncio.run(run()) == []
