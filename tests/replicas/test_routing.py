"""Routing: least outstanding tokens, one home for each key, overflow, and counts that stay right in any order."""

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mossvl.replicas.routing import AMPLE, Load, Router, home, homes


def router(count, full=4, most=math.inf):
    made = Router(full, most)
    for replica in range(count):
        made.open(replica)
    return made


def key(number):
    return number.to_bytes(4, "big")


def test_a_request_goes_where_the_fewest_tokens_are_outstanding():
    routes = router(3)
    assert [routes.begin(tokens) for tokens in (100, 10, 50, 1, 1)] == [0, 1, 2, 1, 1]


def test_an_ended_request_counts_no_more():
    routes = router(2)
    first = routes.begin(100)
    routes.begin(10)
    routes.end(first, 100)
    assert routes.begin(1) == first and routes.load(first) == Load(1, 1)


def test_a_key_has_one_home_while_that_has_room():
    routes = router(4, full=100)
    assert {routes.begin(1000, key(7)) for _ in range(AMPLE)} == {home(key(7), range(4))}


def test_what_is_asked_for_often_has_several_homes_and_always_the_same():
    order = homes(key(7), range(4))
    first, again = ([routes.begin(1000, key(7)) for _ in range(20)] for routes in (router(4, 100), router(4, 100)))
    assert first == again and first[: 2 * AMPLE] == [order[0]] * AMPLE + [order[1]] * AMPLE
    assert set(first) <= set(order[:3])


def test_a_busy_home_keeps_its_key_while_the_others_are_busy_too():
    routes = router(2, full=100)
    own = home(key(1), range(2))
    for _ in range(40):
        routes.begin(10, avoid=[own])
    assert {routes.begin(10, key(1)) for _ in range(40)} == {own}


def test_what_a_full_home_cannot_take_goes_to_the_next_of_its_order():
    routes = router(3, full=2)
    order = homes(key(1), range(3))
    assert [routes.begin(10, key(1)) for _ in range(6)] == [one for one in order for _ in range(2)]


def test_what_no_home_takes_goes_to_the_least_loaded():
    routes = router(2, full=1)
    first, second = homes(key(1), range(2))
    assert [routes.begin(tokens, key(1)) for tokens in (500, 10, 1)] == [first, second, second]


def test_keys_are_spread_evenly():
    homes = Counter(home(key(number), range(8)) for number in range(8000))
    assert set(homes) == set(range(8)) and min(homes.values()) > 850


@given(st.integers(0, 2**32 - 1), st.sets(st.integers(0, 9), min_size=2))
def test_a_replica_that_leaves_moves_only_its_own_keys(number, replicas):
    own = home(key(number), replicas)
    for gone in replicas - {own}:
        assert home(key(number), replicas - {gone}) == own


def test_a_closed_replica_is_not_chosen_and_its_requests_may_end():
    routes = router(2)
    taken = routes.begin(1)
    routes.close(taken)
    assert {routes.begin(1) for _ in range(3)} == {1 - taken}
    routes.end(taken, 1)
    assert routes.load(taken) == Load(0, 0) and routes.serving == {1 - taken}


def test_no_open_replica_takes_nothing():
    assert Router(4).begin(1) is None


def test_more_than_may_wait_is_refused_until_one_ends():
    routes = router(2, full=2, most=3)
    begun = [routes.begin(1) for _ in range(7)]
    assert None not in begun and routes.begin(1) is None
    routes.end(begun[0], 1)
    assert routes.begin(1) == begun[0]


def test_avoided_replicas_are_not_chosen():
    routes = router(3)
    assert routes.begin(1, key(3), avoid=[home(key(3), range(3))]) != home(key(3), range(3))
    assert routes.begin(1, avoid=range(3)) is None


def test_a_replica_that_is_opened_among_busy_ones_gets_few_requests_until_it_has_ended_some():
    routes = router(2, full=100)
    busy = [routes.begin(10) for _ in range(200)]
    routes.close(1)
    for replica in busy:
        routes.end(replica, 10)
    for _ in range(40):
        routes.begin(10)
    routes.open(1)
    keys = (None, *map(key, range(10)))
    taken = [routes.begin(10, keys[number % len(keys)]) for number in range(22)]
    assert taken.count(1) == AMPLE
    for _ in range(AMPLE):
        routes.end(1, 10)
    assert [routes.begin(10) for _ in range(20)].count(1) == 2 * AMPLE


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(1, 1000), st.none() | st.integers(0, 5)),
        st.tuples(st.just("end"), st.integers(0, 100), st.none()),
        st.tuples(st.sampled_from(["open", "close"]), st.integers(0, 3), st.none()),
    )
)


@given(ACTS, st.integers(1, 3), st.integers(0, 4))
def test_counts_and_bounds_hold_whatever_happens(acts, full, most):
    routes = router(4, full, most)
    running, opened = [], set(range(4))
    for act, number, name in acts:
        if act == "open":
            routes.open(number)
            opened.add(number)
        elif act == "close":
            routes.close(number)
            opened.discard(number)
        elif act == "end" and running:
            routes.end(*running.pop(number % len(running)))
        elif act == "begin":
            counts = Counter(replica for replica, _ in running)
            waiting = sum(max(0, counts[one] - full) for one in opened)
            free = any(counts[one] < full for one in opened)
            taken = routes.begin(number, None if name is None else key(name))
            assert (taken is not None) == (bool(opened) and (free or waiting < most))
            if taken is not None:
                assert taken in opened and (counts[taken] < full or not free)
                running.append((taken, number))
        for replica in range(4):
            own = [tokens for one, tokens in running if one == replica]
            assert routes.load(replica) == Load(len(own), sum(own))
    assert routes.requests == len(running)
