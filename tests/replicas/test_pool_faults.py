"""Replicas of a `MossVL` that die: only their own queries fail, and what is asked again is answered, once and right."""

import os
import random
import signal
import threading
import time
from concurrent.futures import Future
from dataclasses import replace

import pytest
from replicas.pools import EIGHT, Breaker, Killer, kill, one_for_each, pids, start
from replicas.stand_ins import PATIENCE, waited

from mossvl import MossVL
from mossvl.errors import GenerationCancelled, GenerationTimeout, OptionError, ReplicaError
from mossvl.replicas import beats
from mossvl.replicas.again import as_completed
from mossvl.replicas.link import Link
from mossvl.replicas.pool import PATIENCE as PATIENCE_OF_POOLS

KILLS = int(os.environ.get("MOSSVL_KILLS", "2"))
"""Kills of the soak; more of them take longer."""


KILLER = {"prompt": "x", "images": [Killer()]}


@pytest.fixture(scope="module")
def pool(golden):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mossvl.replicas.pool.PATIENCE", replace(PATIENCE_OF_POOLS, steady=0.0))  # They die often.
        llm = start(golden)
    with llm:
        yield llm


@pytest.fixture(autouse=True)
def whole(request):
    """Each test finds both replicas ready."""
    if "pool" in request.fixturenames:
        pool = request.getfixturevalue("pool")
        waited(lambda: len(pool._answering._router.serving) == 2)


def test_a_dead_replica_fails_its_own_queries_and_is_started_again(pool):
    handles = one_for_each(pool)
    kill(pool, 1)
    with pytest.raises(ReplicaError, match=r"replica 1 was ended by SIGKILL .* the same query can be asked again"):
        handles[1].result(PATIENCE)
    assert handles[1].result_now.text and handles[1].result_now.finish_reason == "error"
    assert pool.generate("yes", EIGHT).error is None  # By the other.
    waited(lambda: len(pool._answering._router.serving) == 2)
    assert not handles[0].ended
    handles[0].cancel()
    handles[0].wait(PATIENCE)
    assert [pool._answering._router.load(number).requests for number in range(2)] == [0, 0]
    for handle in one_for_each(pool).values():
        handle.cancel()
        assert isinstance(handle.wait(PATIENCE).error, GenerationCancelled)


def stop(pool, number):
    """Stop a replica's process once both answer long queries; return these and the process, once it gets no more."""
    handles, process = one_for_each(pool), pids(pool)[number]
    os.kill(process, signal.SIGSTOP)
    waited(lambda: pool._answering._router.serving == {1 - number})
    return handles, process


def test_a_stopped_replica_gets_no_queries_until_it_goes_on(pool):
    handles, process = stop(pool, 1)
    assert [one.error for one in pool.generate(["yes"] * 8, EIGHT)] == [None] * 8  # By the other.
    os.kill(process, signal.SIGCONT)
    waited(lambda: len(pool._answering._router.serving) == 2)
    for handle in handles.values():
        handle.cancel()
        assert isinstance(handle.wait(PATIENCE).error, GenerationCancelled)
    assert process in pids(pool)


def test_a_replica_that_stays_silent_is_killed_and_started_again(pool, monkeypatch):
    monkeypatch.setattr(beats, "LONGEST_SILENCE", beats.SILENCE + 1)
    handles, process = stop(pool, 1)
    with pytest.raises(ReplicaError, match=r"replica 1 was ended by SIGKILL .* the same query can be asked again"):
        handles[1].result(PATIENCE)
    waited(lambda: len(pool._answering._router.serving) == 2)
    assert process not in pids(pool)
    handles[0].cancel()
    handles[0].wait(PATIENCE)


def test_a_replica_whose_engine_has_failed_is_started_again_and_its_queries_can_be_asked_again(pool):
    before = pids(pool)
    lost = pool.generate({"prompt": "x", "images": [Breaker()]})
    assert isinstance(lost.error, ReplicaError)
    assert "its device is lost; the same query can be asked again" in str(lost.error)
    waited(lambda: len(pool._answering._router.serving) == 2 and set(pids(pool)) - set(before))
    assert [handle.result(PATIENCE).error for handle in (pool.submit("yes", EIGHT) for _ in range(4))] == [None] * 4


def test_queries_wait_while_no_replica_is_ready_but_not_beyond_their_time_or_cancelling(pool):
    for number in range(2):
        kill(pool, number)
    waited(lambda: not pool._answering._router.serving)
    waiting, cancelled = pool.submit("yes", EIGHT), pool.submit("yes", EIGHT)
    late = pool.submit({"prompt": "yes", "generate_kwargs": {"timeout": 0.05}})
    cancelled.cancel()
    assert isinstance(cancelled.wait(1).error, GenerationCancelled)
    assert isinstance(late.wait(5).error, GenerationTimeout)
    assert waiting.result(PATIENCE).text == pool.generate("yes", EIGHT).text


def test_a_replica_that_was_started_again_gets_no_query_before_it_is_warm(pool, monkeypatch):
    warming = Future()
    pool._answering.warm_up()
    monkeypatch.setattr(Link, "call", lambda link, kind: warming)
    kill(pool, 1)
    waited(lambda: 1 not in pool._answering._links)
    waited(lambda: 1 in pool._answering._links)
    handles = [pool.submit(f"Count to {number}.", EIGHT) for number in range(6)]
    assert [handle.result(PATIENCE).error for handle in handles] == [None] * 6
    assert pool._answering._router.serving == {0} and not pool._answering._links[1].asks
    warming.set_result(None)
    assert pool._answering._router.serving == {0, 1}


def test_an_engine_apart_is_started_again_as_that_of_a_replica(golden, model, processor):
    with pytest.raises(OptionError, match="not a model"):
        MossVL(model, processor, apart=True)
    with MossVL(golden / "checkpoint", device="cpu", apart=True) as llm:
        killed, *others = llm.generate([KILLER, "yes", "no"], EIGHT)
        assert isinstance(killed.error, ReplicaError)
        assert all(isinstance(one.error, ReplicaError | None) for one in others)
        assert llm.generate("yes", EIGHT).error is None
        with pytest.raises(OptionError, match="apart=True"):
            llm.live()


def rows(count):
    return [{"prompt": f"Count to {number}.", "generate_kwargs": {"max_new_tokens": 8}} for number in range(count)]


def answers(llm, queries):
    """(tokens, finish, error) of each query, which is answered once."""
    found = {}
    for number, result in as_completed(llm, ((query, None) for query in queries)):
        assert number not in found
        found[number] = (result.token_ids, result.finish_reason, result.error)
    return [found[number] for number in range(len(queries))]


def test_a_query_that_kills_its_replica_is_its_error_and_every_other_one_is_answered(pool):
    queries = rows(12)
    expected = answers(pool, queries)
    found = answers(pool, [*queries[:5], KILLER, *queries[6:]])
    assert isinstance(found[5][2], ReplicaError)
    assert str(found[5][2]).endswith("before the answer was complete, also when the query was asked alone")
    assert found[:5] + found[6:] == expected[:5] + expected[6:]


def test_random_kills_leave_every_query_answered_once_and_right(pool):
    """A query that a replica has died under again and again may say so, which must be rare."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, queries = random.Random(seed), rows(40)
    expected = answers(pool, queries)

    def strike():
        for _ in range(KILLS):
            time.sleep(chance.uniform(0, 1))
            kill(pool, chance.choice(waited(lambda: sorted(pool._answering._router.serving))))

    thread, found = threading.Thread(target=strike), []
    thread.start()
    while thread.is_alive() or not found:
        found += answers(pool, queries)
    thread.join()
    expected *= len(found) // len(expected)
    wrong = [one for one, right in zip(found, expected, strict=True) if one != right]
    assert all(isinstance(error, ReplicaError) for _, _, error in wrong)
    assert len(wrong) < len(found) / 10
