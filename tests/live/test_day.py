"""A session that goes on for a day, by a clock that is set: it rolls over, and takes no more memory."""

import copy
import gc
import tracemalloc

import pytest
import torch
from live_streams import Clock, begin, picture, request_of, told, until

import mossvl
from mossvl.live.events import Closed, Decision, Evicted, RolledOver, Seen

MINUTE, FRAMES = 60.0, 288


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_day_takes_no_more_memory_than_an_hour(device, talker, processor):
    model = copy.deepcopy(talker).to(device)
    with mossvl.MossVL(model, processor, memory=1 << 24, vision_cache=0) as llm:
        clock = Clock()
        watched = begin(llm, clock=clock, tokens_per_slot=2, window_seconds=25 * MINUTE, seed=1, do_sample=True)
        session, images = watched.session, [picture(number) for number in range(4)]
        until(lambda: told(watched, Decision))
        counts, sizes = {Seen: 0, Evicted: 0, RolledOver: 0}, []
        tracemalloc.start()
        for number in range(FRAMES):
            clock.now += 5 * MINUTE
            if number % 50 == 7:
                session.say("Anything new?", images[0])
            else:
                session.push(images[number % 4])
            until(lambda: any(one.time == session._inbox.newest for one in told(watched, Decision)))
            for kind in counts:
                counts[kind] += len(told(watched, kind))
            assert not told(watched, Closed) and all(one.reason == "length" for one in told(watched, RolledOver))
            watched.events.clear()
            request = request_of(session)
            held = len(request.pixels), len(request.vision_pages), len(session._director.kept.pictures)
            assert held <= (7, 12, 6) and request.context.length <= 512 and len(session._director.kept.pieces) <= 60
            if number in (FRAMES // 3, FRAMES - 1):
                gc.collect()
                on_gpu = torch.cuda.memory_allocated() if device == "cuda" else 0
                sizes.append((tracemalloc.get_traced_memory()[0], on_gpu))
        tracemalloc.stop()
        assert counts[Seen] == FRAMES and counts[RolledOver] > 8
        assert counts[Evicted] > FRAMES // 2
        grown = [later - before for before, later in zip(*sizes, strict=True)]
        assert max(grown) < 200_000  # Of the host, and of the device.
        assert session.now == FRAMES * 5 * MINUTE == 86_400.0 and session.active
