"""A request whose first frames leave computes what one pass over everything does that hides them from later rows."""

import pytest
import torch
from live_streams import hide

import mossvl
from mossvl.engine.job import Job

from .test_growing import GRIDS, IMAGE, Camera, ask, begin, frames_of, one_pass, until

PIECES = [[7, IMAGE, 8, IMAGE], [IMAGE, 9], [10, 11], [IMAGE, 12, IMAGE], [13], [IMAGE, 14, 15]]
LEAVING = [0, 1, 1, 2, 4, 4]
"""How many frames have left when each piece is appended."""
ENDS = torch.tensor([rows * columns // 4 + 1 for rows, columns in [*GRIDS, *GRIDS]]).cumsum(0)
"""End of each frame in the vision sequence."""


@pytest.fixture
def lives(monkeypatch):
    """Requests are live sessions'."""
    make_requests = Job.make_requests

    def live(job, *planned):
        make_requests(job, *planned)
        for request in job.requests:
            request.live = True

    monkeypatch.setattr(Job, "make_requests", live)


def watched(llm, rooms):
    """All pieces, before each of which frames leave → (job, stream, drawn rows, unseen vision tokens of each row)."""
    job = begin(llm, Camera(PIECES[0]), rooms[0])
    draft = job.handle.drafts[0]
    until(lambda: len(draft.tokens) == rooms[0] and job.requests[0].rests, job)
    stream, frames, drawn, hidden = list(PIECES[0]), 2, [], [0] * (len(PIECES[0]) + rooms[0] - 1)
    drawn += range(len(stream), len(stream) + rooms[0])
    stream += draft.tokens
    (request,) = job.requests
    for ids, left, room in zip(PIECES[1:], LEAVING[1:], rooms[1:], strict=True):
        until(lambda: request.rests and not request.in_flight, job)
        llm.engine.loop.events.put(lambda left=left: request.leave(left))
        ask(llm, job, ids, room, frames)
        frames += ids.count(IMAGE)
        stream += ids
        drawn += range(len(stream), len(stream) + room)
        stream += draft.tokens[len(drawn) - room :]
        hidden += [int(ENDS[left - 1]) if left else 0] * (len(stream) - 1 - len(hidden))
    return job, stream, drawn, torch.tensor([*hidden, hidden[-1]])


def all_frames():
    first, found = 0, ([], [], [])
    for ids in PIECES:
        for whole, part in zip(found, frames_of(ids, first), strict=True):
            whole += part
        first += ids.count(IMAGE)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"page_size": 1},
        {"page_size": 4, "prefill_tokens": 1, "mixed_prefill_tokens": 1, "vision_patches": 1},
        {"page_size": 2, "vision_cache": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("overlaps", [False, True], ids=["", "overlapping"])
def test_rows_after_frames_have_left_are_those_of_a_pass_that_hides_them(
    overlaps, options, make, model, lives, monkeypatch
):
    llm = make(**options)
    monkeypatch.setattr(type(llm.engine.runner), "overlaps", property(lambda self: overlaps))
    job, stream, drawn, unseen = watched(llm, (2, 3, 1, 2, 4, 3))
    (request,), size = job.requests, llm.engine.runner.executor.pool.vision_page_size
    until(lambda: request.rests, job)
    assert request.freed == int(ENDS[3]) // size
    assert len(request.vision_pages) == -(-int(ENDS[5]) // size) - request.freed
    hide(monkeypatch, unseen)
    expected = one_pass(model, stream, all_frames())
    for row, told in zip(drawn, job.handle.drafts[0].logprobs, strict=True):
        assert int(expected[row - 1].argmax()) == stream[row]
        assert told.logprob == pytest.approx(float(expected[row - 1, stream[row]]), abs=1e-4)
    job.handle.cancel()
    job.handle.wait(60)
    assert llm.engine.cache.num_free == llm.engine.cache.num_pages


def test_a_pass_that_hides_nothing_differs(make, model, lives):
    """So that the frames that leave matter."""
    job, stream, drawn, _ = watched(make(), (2, 3, 1, 2, 4, 3))
    expected = one_pass(model, stream, all_frames())
    told = [one.logprob for one in job.handle.drafts[0].logprobs]
    plain = [float(expected[row - 1, stream[row]]) for row in drawn]
    assert told[:2] == pytest.approx(plain[:2], abs=1e-4)
    assert max(abs(one - other) for one, other in zip(told[-3:], plain[-3:], strict=True)) > 1e-3


@pytest.mark.gpu
@pytest.mark.xdist_group("gpu")
@pytest.mark.parametrize("options", [{}, {"eager": True}, {"page_size": 16}, {"kv_cache_dtype": "fp8"}], ids=str)
def test_frames_leave_on_a_gpu_too(options, golden, model, lives, monkeypatch):
    llm = mossvl.load(golden / "checkpoint", device="cuda", dtype="float32")
    llm = mossvl.MossVL(*llm, memory=1 << 28, **options)
    job, stream, drawn, unseen = watched(llm, (2, 3, 1, 2, 4, 3))
    told = [one.logprob for one in job.handle.drafts[0].logprobs]
    llm.close()
    hide(monkeypatch, unseen)
    expected = one_pass(model, stream, all_frames())
    error = 0.3 if "kv_cache_dtype" in options else 2e-3
    assert told == pytest.approx([float(expected[row - 1, stream[row]]) for row in drawn], abs=error)
