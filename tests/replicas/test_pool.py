"""`MossVL` with replicas: the answers, handles and errors of one engine."""

import asyncio
import os
import threading
from itertools import product

import numpy as np
import pytest
import torch
from golden_cases import CASES, MEDIA
from PIL import Image

from mossvl import MossVL, SamplingParams
from mossvl.errors import EngineError, GenerationCancelled, GenerationTimeout, MediaError, OptionError, PromptError
from mossvl.media.limits import MediaLimits

SHAPES, CLIP = str(MEDIA / "shapes.png"), str(MEDIA / "clip_10fps_6s.mp4")
QUERY = {"prompt": "Describe", "images": [SHAPES]}
EIGHT = SamplingParams(max_new_tokens=8, ignore_eos=True)
LONG = SamplingParams(max_new_tokens=5000, ignore_eos=True)
PATIENCE = 120


@pytest.fixture(scope="module")
def pool(golden):
    with MossVL(golden / "checkpoint", device="cpu", dtype="float32", max_batch=4, data_parallel_size=2) as llm:
        yield llm


def loads(llm):
    return [llm._answering._router.load(number) for number in range(llm.data_parallel_size)]


def queries():
    image = np.asarray(Image.open(SHAPES).convert("RGB"))
    given = [
        "yes",
        QUERY,
        {"prompt": "Describe", "images": [image]},
        {"prompt": "Describe", "images": [torch.from_numpy(image.copy()).permute(2, 0, 1)]},
        {"prompt": "Describe", "images": [Image.open(SHAPES)]},
        {"prompt": "Describe", "images": [(MEDIA / "shapes.png").read_bytes()]},
        {"prompt": "When?", "videos": [CLIP], "media_kwargs": {"max_frames": 3}},
        {"prompt": "When?", "videos": [[(0.5, image), (1.5, image[::-1])]]},
        {"messages": [{"role": "user", "content": "Hi"}], "system_prompt": "Be brief."},
        {"promt": "yes"},
        {"prompt": "x", "images": ["missing.png"]},
        {"prompt": "x", "images": [b"no image"]},
        {"prompt": "x", "images": [3]},
    ]
    sampled = {"temperature": 0.9, "seed": 11, "max_new_tokens": 8, "ignore_eos": True}
    kinds = [EIGHT, SamplingParams(**sampled), SamplingParams(**sampled, n=2, logprobs=2, prompt_logprobs=1)]
    return list(zip(*product(given, kinds), strict=True))


def test_answers_scores_media_and_errors_are_those_of_one_engine(pool, llm):
    for got, expected in zip(pool.generate(*queries()), llm.generate(*queries()), strict=True):
        for one, other in zip(got.answers, expected.answers, strict=True):
            assert (one.text, one.token_ids, one.finish_reason) == (other.text, other.token_ids, other.finish_reason)
            assert (one.logprobs is None) == (other.logprobs is None)
            for mine, theirs in zip(one.logprobs or [], other.logprobs or [], strict=True):
                assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)
                assert [token for token, _ in mine.top] == [token for token, _ in theirs.top]
        assert (got.media, got.input_text) == (expected.media, expected.input_text)
        assert (str(got.error), type(got.error)) == (str(expected.error), type(expected.error))
        counts = [(one.usage.prompt_tokens, one.usage.vision_tokens, one.usage.new_tokens) for one in (got, expected)]
        assert counts[0] == counts[1]
        for mine, theirs in zip(got.prompt_logprobs or [], expected.prompt_logprobs or [], strict=True):
            assert (mine or {}).keys() == (theirs or {}).keys()


def test_golden_answers_are_given(pool):
    for name, case in CASES.items():
        result = pool.generate({**case["query"], "generate_kwargs": {"max_new_tokens": case["max_new_tokens"]}})
        assert (name, result.text, result.input_text) == (name, case["text"], case["input_text"])


def test_a_stream_gives_chunks_times_and_timings_from_submission(pool):
    handle = pool.stream(QUERY, EIGHT)
    chunks = list(handle)
    result = handle.result()
    assert len(chunks) > 1 and "".join(chunks) == result.text == pool.generate(QUERY, EIGHT).text
    times = handle.drafts[0].times
    assert len(times) == 8 and times == sorted(times)
    assert 0 < result.timings.media < result.timings.first_token < result.timings.total


def test_a_stop_string_ends_an_answer_as_in_one_engine(pool, llm):
    whole = llm.generate("yes", EIGHT).text
    params = SamplingParams(max_new_tokens=8, ignore_eos=True, stop=(whole[6:12],))
    assert pool.generate("yes", params).text == llm.generate("yes", params).text == whole[: whole.find(whole[6:12])]


def test_both_replicas_answer_and_their_loads_return_to_nothing(pool):
    handles = [pool.submit(f"Count to {number}.", LONG) for number in range(2)]
    assert sorted(load.requests for load in loads(pool)) == [1, 1]
    for handle in handles:
        handle.cancel()
        handle.wait(PATIENCE)
    assert [(load.requests, load.tokens) for load in loads(pool)] == [(0, 0), (0, 0)]


def test_questions_about_one_medium_find_it_in_a_cache(pool):
    query = {"prompt": "What happens in the clip? " * 20, "videos": [CLIP], "media_kwargs": {"max_frames": 2}}
    pool.generate([query] * 3 + [QUERY, "yes", "no"], EIGHT)
    assert pool.generate(query, EIGHT).usage.cached_tokens > 64


def test_what_a_full_replica_cannot_take_goes_to_the_other(pool):
    handles = [pool.submit({"prompt": str(number), "images": [SHAPES]}, LONG) for number in range(6)]
    assert sorted(load.requests for load in loads(pool)) == [2, 4]
    for handle in handles:
        handle.cancel()
        handle.wait(PATIENCE)


def test_a_cancelled_query_keeps_its_text_and_says_so(pool):
    handle = pool.submit("yes", LONG)
    next(iter(handle.chunks()))
    handle.cancel()
    result = handle.wait(PATIENCE)
    assert (result.finish_reason, type(result.error)) == ("cancelled", GenerationCancelled) and result.text
    assert len(result.token_ids) < 5000
    with pytest.raises(GenerationCancelled):
        handle.result()


def test_leaving_a_stream_cancels_its_query(pool):
    handle = pool.stream("yes", LONG)
    for _ in handle:
        break
    assert isinstance(handle.wait(PATIENCE).error, GenerationCancelled)


def test_a_wait_that_is_over_leaves_the_query_and_a_time_limit_ends_it(pool):
    handle = pool.submit({"prompt": "yes", "generate_kwargs": {"timeout": 0.5, "max_new_tokens": 5000}})
    with pytest.raises(GenerationTimeout, match="it goes on"):
        handle.result(timeout=0.01)
    with pytest.raises(GenerationTimeout, match=r"timeout of 0\.5 seconds"):
        handle.result(PATIENCE)


def test_asyncio_generates_streams_awaits_and_cancels(pool):
    async def main():
        results = await pool.agenerate(["yes", "no"], EIGHT)
        text = "".join([chunk async for chunk in pool.stream("yes", EIGHT)])
        awaited = await pool.submit("no", EIGHT)
        task = asyncio.ensure_future(pool.submit("yes", LONG).ending())
        await asyncio.sleep(0.05)
        task.cancel()
        return results, text, awaited

    results, text, awaited = asyncio.run(main())
    assert [one.text for one in results] == [text, awaited.text]


def test_a_conversation_goes_on(pool, llm):
    def talk(llm):
        chat = llm.chat("Be brief.", EIGHT)
        return [chat.ask("What?", images=[SHAPES]).text, "".join(chat.stream("And then?"))]

    assert talk(pool) == talk(llm)


def test_threads_share_the_replicas(pool):
    expected = [result.text for result in pool.generate([str(number) for number in range(8)], EIGHT)]
    answers = {}
    threads = [
        threading.Thread(target=lambda number=number: answers.update({number: pool.generate(str(number), EIGHT).text}))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[number] for number in range(8)] == expected


def test_limits_set_later_hold_in_the_replicas(pool):
    before = pool.processor.limits
    pool.processor.limits = MediaLimits(image_pixels=100)
    try:
        results = pool.generate([QUERY, {"prompt": "x", "images": [Image.open(SHAPES)]}], EIGHT)
    finally:
        pool.processor.limits = before
    assert [type(result.error) for result in results] == [MediaError] * 2
    assert "more than the 100 allowed" in str(results[0].error)
    assert pool.generate(QUERY, EIGHT).error is None


def test_relative_paths_start_where_the_asking_process_is(pool, monkeypatch):
    monkeypatch.chdir(MEDIA)
    assert pool.generate({"prompt": "Describe", "images": ["shapes.png"]}, EIGHT).error is None


def test_what_cannot_travel_is_an_error_of_its_query(pool):
    results = pool.generate(["yes", {"prompt": "x", "images": [threading.Lock()]}], EIGHT)
    assert results[0].error is None
    assert isinstance(results[1].error, PromptError) and "another process" in str(results[1].error)


def test_what_only_the_model_refuses_is_in_the_result(pool):
    result = pool.generate("yes", SamplingParams(stop_token_ids=(10**9,)))
    assert isinstance(result.error, OptionError) and "stop_token_ids" in str(result.error)


def test_warming_up_returns_once_all_replicas_are_warm(pool):
    pool.warm_up()
    assert pool.generate("yes", EIGHT).error is None


@pytest.mark.parametrize("use", [lambda llm: llm.engine, lambda llm: llm.model, lambda llm: llm.live()])
def test_engines_and_live_sessions_are_refused(pool, use):
    with pytest.raises(OptionError, match="data_parallel_size=2"):
        use(pool)


def test_a_forked_process_is_refused(pool):
    handle = pool.submit("yes", LONG)
    child = os.fork()
    if not child:
        try:
            pool.submit("yes")
        except EngineError:
            os._exit(0 if isinstance(handle.wait(1).error, EngineError) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    handle.cancel()
    assert isinstance(handle.wait(PATIENCE).error, GenerationCancelled)


@pytest.mark.parametrize("size", [0, -1, 1.5, "2"])
def test_a_number_of_replicas_that_is_none_is_refused(size, golden):
    with pytest.raises(OptionError, match="data_parallel_size"):
        MossVL(golden / "checkpoint", data_parallel_size=size)


def test_a_loaded_model_has_no_replicas(model, processor):
    with pytest.raises(OptionError, match="give its folder or name"):
        MossVL(model, processor, data_parallel_size=2)
