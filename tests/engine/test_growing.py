"""A request that is asked more, before it has answered and after, computes what one pass over all of it does."""

import time
from concurrent.futures import Future

import pytest
import torch

from mossvl.errors import ContextLengthError, GenerationTimeout, MossVLError, OptionError
from mossvl.options import GenerationOptions
from mossvl.sources.files import digest_of
from mossvl.sources.source import Appended, Frame, Loaded, Planned

IMAGE = 486  # the golden checkpoint's image token
SCALE = ((0.5,) * 3, (0.5,) * 3)
GRIDS = [(4, 6), (2, 2), (6, 4), (2, 4)]
PIECES = [[7, 8, IMAGE, 9, 10, IMAGE], [11, IMAGE, 12], [13, 14, 15], [IMAGE, 16]]
"""What is asked, one after the other; the frames' grids are those of `GRIDS`, from the start."""


class NoText:
    def decode(self, tokens, **_):
        return ""


def frames_of(ids, first):
    """(grids, patches, digests) of the image tokens among these; frame `first` and on."""
    grids = [GRIDS[(first + number) % len(GRIDS)] for number in range(ids.count(IMAGE))]
    noise = torch.Generator().manual_seed(first)
    patches = [
        torch.randint(0, 256, (rows * columns, 768), dtype=torch.uint8, generator=noise) for rows, columns in grids
    ]
    return [(1, *grid) for grid in grids], patches, [digest_of(*one, SCALE) for one in zip(patches, grids, strict=True)]


class Camera:
    """A source that gives its frames once."""

    tokenizer, pixel_scale, patience, held, repeatable = NoText(), SCALE, 60.0, 0, False

    def __init__(self, ids, frames=None):
        self.ids, (self.grids, self.patches, self.digests) = ids, frames or frames_of(ids, 0)
        self.begun, self.released, self.before = 0, 0, lambda: None

    def start(self, report, first=None):
        assert first is None, "a camera cannot give frames again"
        self.begun += 1
        self.before()
        report(Planned("", torch.tensor(self.ids), self.grids, [], [None] * len(self.grids), streams=False))
        for number, frame in enumerate(zip(self.patches, self.digests, strict=True)):
            report(Frame(number, *frame))
        report(Loaded())

    def release(self, patches):
        self.released += 1

    def stop(self): ...


def begin(llm, source, wanted=1, **options):
    """An open query → its job."""
    options = GenerationOptions(**{"max_new_tokens": wanted, "ignore_eos": True, "logprobs": 0, **options})
    handle = llm.engine.begin(source, options, open=True)
    return next(job for job in list(llm.engine.loop.jobs) if job.handle is handle)


def until(condition, job=None):
    for _ in range(60_000):
        if condition():
            return
        assert job is None or not job.ended, job.handle.error
        time.sleep(0.001)
    raise AssertionError("it has not come to that")


def ask(llm, job, ids, room, first=0):
    """Append tokens and their frames, and wait until the answer has grown by `room`."""
    known = len(job.handle.drafts[0].tokens)
    llm.engine.extend(job.handle, Appended(torch.tensor(ids, dtype=torch.long), *frames_of(ids, first), room))
    until(lambda: len(job.handle.drafts[0].tokens) == known + room, job)


def grown(llm, rooms, **options):
    """All pieces, one after the other, and after each as many tokens as `rooms` says → (job, stream, drawn rows)."""
    job = begin(llm, Camera(PIECES[0]), max(rooms[0], 1), **options)
    draft = job.handle.drafts[0]
    stream, frames, drawn = list(PIECES[0]), PIECES[0].count(IMAGE), []
    until(lambda: len(draft.tokens) == max(rooms[0], 1), job)
    for ids, room in zip([[], *PIECES[1:]], [max(rooms[0], 1), *rooms[1:]], strict=True):
        if ids:
            ask(llm, job, ids, room, frames)
            frames += ids.count(IMAGE)
        stream += ids
        drawn += range(len(stream), len(stream) + room)
        stream += draft.tokens[len(drawn) - room :]
    return job, stream, drawn


def logits_of(model, stream, frames):
    """Of a plain pass over the whole stream: (tokens, vocabulary)."""
    pixels = torch.cat(frames[1]).float() / 255 * 2 - 1
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([stream]), pixel_values=pixels, grid_thw=torch.tensor(frames[0]))
    return out.logits[0].float()


def one_pass(model, stream, frames):
    """Log-probabilities (tokens, vocabulary) of a plain pass over the whole stream."""
    return logits_of(model, stream, frames).log_softmax(-1)


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
        {"page_size": 2, "prefill_tokens": 1, "mixed_prefill_tokens": 1, "vision_patches": 1},
        {"page_size": 1, "prefix_cache": False, "vision_cache": 0},
        {"page_size": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("overlaps", [False, True], ids=["", "overlapping"])
@pytest.mark.parametrize("rooms", [(1, 1, 1, 1), (3, 0, 5, 2), (1, 0, 0, 4), (2, 7, 0, 1)], ids=str)
def test_tokens_drawn_between_prompts_are_those_of_one_pass_over_everything(
    rooms, overlaps, options, make, model, monkeypatch
):
    llm = make(**options)
    monkeypatch.setattr(type(llm.engine.runner), "overlaps", property(lambda self: overlaps))
    job, stream, drawn = grown(llm, rooms)
    draft = job.handle.drafts[0]
    assert draft.tokens == [stream[row] for row in drawn]
    expected = one_pass(model, stream, all_frames())
    for row, told in zip(drawn, draft.logprobs, strict=True):
        assert int(expected[row - 1].argmax()) == stream[row]
        assert told.logprob == pytest.approx(float(expected[row - 1, stream[row]]), abs=1e-4)
    request = job.requests[0]
    assert request.context.tokens(0, request.context.length) == stream
    assert job.handle.prompt_tokens == sum(map(len, PIECES))
    assert job.handle.vision_tokens == sum(rows * columns // 4 + 1 for rows, columns in GRIDS)
    job.handle.cancel()
    job.handle.wait(60)
    llm.engine.cache.clear()
    assert llm.engine.cache.num_free == llm.engine.cache.num_pages


def test_a_prompt_in_two_parts_is_answered_as_the_prompt_at_once(make):
    """The second part comes before anything is drawn."""
    whole = [*PIECES[0], *PIECES[1]]
    frames = [a + b for a, b in zip(frames_of(PIECES[0], 0), frames_of(PIECES[1], 2), strict=True)]
    llm = make(prefix_cache=False)
    expected = begin(llm, Camera(whole, frames), 8)
    until(lambda: len(expected.handle.drafts[0].tokens) == 8)
    second, camera = Appended(torch.tensor(PIECES[1]), *frames_of(PIECES[1], 2), 8), Camera(PIECES[0])
    begun = Future()
    camera.before = lambda: llm.engine.extend(begun.result(60), second)
    job = begin(llm, camera)
    begun.set_result(job.handle)
    until(lambda: len(job.handle.drafts[0].tokens) == 8, job)
    assert job.handle.drafts[0].tokens == expected.handle.drafts[0].tokens
    for own, other in zip(job.handle.drafts[0].logprobs, expected.handle.drafts[0].logprobs, strict=True):
        assert own.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_a_penalty_counts_all_prompts_and_the_answer_between_them(make, model):
    llm = make()
    job, stream, drawn = grown(llm, (4, 4, 4, 4), repetition_penalty=1.7, presence_penalty=0.5)
    likely = [token for token in range(512) if token != IMAGE and token % 7]
    ask(llm, job, likely, 4)
    stream += likely
    drawn += range(len(stream), len(stream) + 4)
    stream += job.handle.drafts[0].tokens[-4:]
    logits = logits_of(model, stream, all_frames())
    for row in drawn:
        penalised = logits[row - 1].clone()
        before, own = sorted(set(stream[:row])), sorted({stream[one] for one in drawn if one < row})
        penalised[before] = torch.where(penalised[before] > 0, penalised[before] / 1.7, penalised[before] * 1.7)
        penalised[own] -= 0.5
        assert int(penalised.argmax()) == stream[row]


@pytest.mark.parametrize("overlaps", [False, True], ids=["", "overlapping"])
def test_what_is_appended_while_it_speaks_follows_all_that_it_has_said(overlaps, make, model, monkeypatch):
    llm = make(page_size=4)
    monkeypatch.setattr(type(llm.engine.runner), "overlaps", property(lambda self: overlaps))
    job = begin(llm, Camera(PIECES[0]), 400)
    draft, frames = job.handle.drafts[0], 2
    for number, ids in enumerate(PIECES[1:], 1):
        until(lambda number=number: len(draft.tokens) >= 3 * number, job)
        llm.engine.extend(job.handle, Appended(torch.tensor(ids), *frames_of(ids, frames), 400 if number < 3 else 5))
        frames += ids.count(IMAGE)
    request = job.requests[0]
    until(lambda: len(request.context.prompts) == 4 and request.rests, job)
    stream = request.context.tokens(0, request.context.length)
    given = [row for one in request.context.prompts for row in range(one.begin.row, one.end.row)]
    drawn = [row for row in range(len(stream)) if row not in given]
    assert [stream[row] for row in given] == [token for ids in PIECES for token in ids]
    assert [stream[row] for row in drawn] == draft.tokens and len(stream) - given[-1] == 6
    logprobs = one_pass(model, stream, all_frames())
    assert [int(logprobs[row - 1].argmax()) for row in drawn] == draft.tokens


def test_a_token_that_is_being_drawn_is_said_before_what_is_appended(make, monkeypatch):
    llm, before = make(), []
    monkeypatch.setattr(type(llm.engine.runner), "overlaps", property(lambda self: True))
    job = begin(llm, Camera(PIECES[0]), 400)
    until(lambda: len(job.handle.drafts[0].tokens) > 3, job)
    request = job.requests[0]

    def event():
        before.append((request.context.length, request.in_flight))
        job.appended.append(Appended(torch.tensor([5]), [], [], [], 1))

    llm.engine.loop.events.put(event)
    until(lambda: len(request.context.prompts) == 2, job)
    ((known, in_flight),) = before
    assert in_flight == 1 and request.context.prompts[1].begin.row == known + 1
    llm.close()  # While steps overlap: the last one is read then.


def test_pixels_that_are_appended_are_kept_where_a_source_gives_its_own_again(make):
    class Film(Camera):
        repeatable = True

        def start(self, report, first=None):
            if first is None:
                super().start(report)
            else:
                self.begun += 1
                for number in range(first, len(self.patches)):
                    report(Frame(number, self.patches[number], self.digests[number]))
                report(Loaded())

    llm = make(vision_cache=0, prefix_cache=False)
    job = begin(llm, Film(PIECES[0]))
    until(lambda: len(job.handle.drafts[0].tokens) == 1, job)
    ask(llm, job, PIECES[1], 2, 2)
    request, tokens = job.requests[0], list(job.handle.drafts[0].tokens)
    assert sorted(request.pixels) == [2] and job.source.released == 2
    until(lambda: request.rests)
    llm.engine.loop.events.put(lambda: llm.engine.scheduler._preempt(request))
    until(lambda: request.slot < 0)
    ask(llm, job, [], 2)
    assert job.source.begun == 2 and job.handle.drafts[0].tokens[:3] == tokens and sorted(request.pixels) == [2]


def test_two_that_share_a_page_of_vision_go_on_with_frames_of_their_own(make, model):
    llm, begun = make(page_size=2), [*PIECES[0], 11, 12, 13]
    jobs = []
    for _ in range(2):
        jobs.append(begin(llm, Camera(begun)))
        until(lambda: len(jobs[-1].handle.drafts[0].tokens) == 1, jobs[-1])
    one, other = (job.requests[0] for job in jobs)
    assert other.cached == 8 and other.vision_pages == one.vision_pages
    for job, first in zip(jobs, (2, 3), strict=True):
        ask(llm, job, [IMAGE, 5], 3, first)
    assert other.vision_pages[:4] == one.vision_pages[:4] and other.vision_pages[4] != one.vision_pages[4]
    for job, first in zip(jobs, (2, 3), strict=True):
        stream = job.requests[0].context.tokens(0, job.requests[0].context.length)
        frames = [a + b for a, b in zip(frames_of(begun, 0), frames_of([IMAGE], first), strict=True)]
        expected = one_pass(model, stream, frames)
        for row, told in zip(range(12, 15), job.handle.drafts[0].logprobs[1:], strict=True):
            assert told.logprob == pytest.approx(float(expected[row - 1, stream[row]]), abs=1e-4)


@pytest.mark.parametrize("vision_cache", [0, 1 << 30])
def test_a_grown_request_that_is_preempted_begins_anew_from_pixels_that_were_kept(vision_cache, make, model):
    llm = make(vision_cache=vision_cache, prefix_cache=False)
    job, _, _ = grown(llm, (2, 2, 2, 2))
    request = job.requests[0]
    assert sorted(request.pixels) == [0, 1, 2, 3] and not job.source.released
    until(lambda: request.rests)
    llm.engine.loop.events.put(lambda: llm.engine.scheduler._preempt(request))
    until(lambda: request.slot < 0)
    ask(llm, job, [], 6)
    assert request.preemptions == 1 and job.source.begun == 1
    tokens = request.context.tokens(0, request.context.length)
    expected = one_pass(model, tokens, all_frames())
    for row, told in zip(range(len(tokens) - 6, len(tokens)), job.handle.drafts[0].logprobs[-6:], strict=True):
        assert told.logprob == pytest.approx(float(expected[row - 1, tokens[row]]), abs=1e-4)
        assert int(expected[row - 1].argmax()) == tokens[row]


def test_a_step_that_fails_while_a_request_is_parked_draws_nothing_for_it(make, monkeypatch):
    """It is parked by the token of the step before, after the step that fails was planned."""
    expected = begin(make(), Camera(PIECES[0]), 6)
    until(lambda: len(expected.handle.drafts[0].tokens) == 6, expected)
    tokens = expected.handle.drafts[0].tokens
    stop = tokens.index(tokens[3])
    llm, failed = make(), []
    monkeypatch.setattr(type(llm.engine.runner), "overlaps", property(lambda self: True))
    launch = llm.engine.runner.launch

    def launching(step):
        drawing = [one for one in step.decode if one.params.stop_token_ids and one.num_answer == stop]
        if drawing and len(step.requests) > 1 and not failed:
            failed.append(step)
            raise RuntimeError("injected")
        return launch(step)

    monkeypatch.setattr(llm.engine.runner, "launch", launching)
    beside = begin(llm, Camera([1, 2, 3]), 400)
    job = begin(llm, Camera(PIECES[0]), 40, stop_token_ids=[tokens[3]])
    until(lambda: job.requests and job.requests[0].rests and not job.requests[0].in_flight, job)
    until(lambda: len(beside.handle.drafts[0].tokens) > 40, beside)
    assert failed and job.handle.drafts[0].tokens == tokens[: stop + 1]
    llm.close()  # While steps overlap: the last one is read then.


def test_a_request_that_waits_for_more_computes_nothing_and_holds_up_nobody(make, monkeypatch):
    llm = make()
    job, stream, _ = grown(llm, (1, 1, 1, 0))
    request = job.requests[0]
    until(lambda: request.context.length == len(stream) and request.rests, job)
    steps, launch = [], llm.engine.runner.launch
    monkeypatch.setattr(llm.engine.runner, "launch", lambda step: steps.append(step) or launch(step))
    assert llm.generate("yes", GenerationOptions(max_new_tokens=3)).error is None
    assert steps and all(request not in step.requests for step in steps)
    assert request.computed == len(stream) - 1 and request.slot >= 0 and request.text_pages


def test_what_is_appended_beyond_the_memory_ends_its_query_with_the_reason(make):
    llm = make(page_size=4, memory=100_000)
    job = begin(llm, Camera(PIECES[0]))
    llm.engine.extend(job.handle, Appended(torch.full((3000,), 9), [], [], [], 1))
    error = job.handle.wait(60).error
    assert isinstance(error, ContextLengthError) and "3006" in str(error).replace("3007", "3006")


@pytest.mark.parametrize(
    "params", [{"n": 2, "temperature": 1.0}, {"stop": ["y"]}, {"regex": "yes|no", "ignore_eos": False}]
)
def test_an_open_query_has_one_answer_without_stop_strings_and_forms(params, make):
    with pytest.raises(OptionError, match="one answer, no stop texts and no form"):
        begin(make(), Camera(PIECES[0]), 1, **params)


def test_a_query_that_is_not_open_cannot_be_appended_to(make):
    llm = make()
    handle = llm.submit("yes", GenerationOptions(max_new_tokens=50, ignore_eos=True))
    with pytest.raises(ValueError, match="open=True"):
        llm.engine.extend(handle, Appended(torch.tensor([1]), [], [], [], 1))
    assert len(handle.result(60).token_ids) == 50


def test_pixels_that_a_camera_has_lost_end_their_query_and_no_step_fails(make, caplog):
    llm = make(vision_cache=0, prefix_cache=False)
    camera = Camera(PIECES[0])
    camera.patches = camera.patches[:1]
    camera.digests = camera.digests[:1]
    handle = llm.engine.begin(camera, GenerationOptions())
    with pytest.raises(MossVLError, match="pixels of frame 1 are gone") as raised:
        handle.result(60)
    assert not isinstance(raised.value, GenerationTimeout)
    assert "a step has failed" not in caplog.text
