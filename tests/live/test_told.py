"""Of every frame that is pushed, a session tells once what has become of it, whatever happens to its memory."""

import os
import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import mossvl
from mossvl.errors import ContextLengthError
from mossvl.live.events import Decision, Dropped, Evicted, Seen, Turn

COUNT = int(os.environ.get("MOSSVL_FUZZ", "12"))
SIZES = [(32, 32), (64, 64), (64, 96), (256, 256), (256, 384), (512, 512), (64, 1024)]

GONE = (Dropped, Evicted)


def options(chance):
    return {
        "max_context": chance.choice([256, 300, 400]),
        "tokens_per_second": None,
        "tokens_per_slot": chance.choice([1, 3, None]),
        "max_new_tokens": chance.choice([1, 5, 20]),
        "window_seconds": chance.choice([None, 2.0, 60.0]),
        "window_frames": chance.choice([None, 1, 3, 20]),
        "frames": chance.choice(["one_per_slot", "drain"]),
        "when_behind": chance.choice(["block", "drop_oldest", "latest"]),
        "queue": chance.choice([1, 4, 50]),
    }


def give(session, chance, time):
    """Give frames, with a prompt now and then; return the times of those that were taken."""
    count = chance.choice([1, 1, 1, 2, 5])
    shown = [np.full((*chance.choice(SIZES), 3), chance.randrange(256), np.uint8) for _ in range(count)]
    frames = [(image, time + number / 10) for number, image in enumerate(shown)]
    try:
        session.give(["What?"] * (chance.random() < 0.1), frames, timeout=60)
    except ContextLengthError:
        return []
    return [when for _, when in frames]


def preempt(engine):
    """Take the memory of all that is computed, once the step is over."""
    for request in [request for job in engine.loop.jobs for request in job.requests]:
        if request.slot >= 0 and not request.in_flight:
            engine.scheduler._preempt(request)


@pytest.mark.parametrize("seed", range(COUNT))
def test_a_frame_is_decided_on_or_dropped_and_told_of_once(seed, talker, processor):
    chance = random.Random(seed)
    with mossvl.MossVL(talker, processor, memory=1 << 24, page_size=4, vision_cache=0) as llm:
        session = llm.live("Go.", system_prompt="Watch.", **options(chance))
        bounds = session._director.bounds
        small = replace(bounds, vision=chance.choice([100, 300]), positions=chance.choice([300, bounds.positions]))
        session._director.bounds = chance.choice([bounds, small])
        pushed = []
        for number in range(40):
            act = chance.random()
            if act < 0.8:
                pushed += give(session, chance, float(number))
            elif act < 0.9:
                session.interrupt()
            else:
                llm.engine.loop.events.put(lambda: preempt(llm.engine))
        session.final()
        events = list(session)
        assert events[-1].reason == "final" and llm.engine.cache.num_free == llm.engine.cache.num_pages
    seen = [event.time for event in events if isinstance(event, Seen)]
    gone = {kind: [time for event in events if isinstance(event, kind) for time in event.times] for kind in GONE}
    assert Counter(seen + gone[Dropped]) == Counter(pushed)
    assert seen == sorted(seen) and set(gone[Evicted]) <= set(seen)
    assert len(set(gone[Evicted])) == len(gone[Evicted])
    check_decisions([type(event) for event in events if isinstance(event, Seen | Turn | Decision)])


def check_decisions(kinds):
    """Each slot is over before the next one: no two decisions without a frame or a prompt, and none is missing."""
    for before, kind in pairwise(kinds):
        assert (before, kind) != (Decision, Decision)
    assert kinds[-1] is Decision
