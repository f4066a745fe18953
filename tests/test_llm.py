"""`MossVL`: queries, streams, conversations, asyncio, and what results tell."""

import asyncio
import dataclasses
import json
import threading

import numpy as np
import pytest
import torch
from golden_cases import CASES, MEDIA

import mossvl
from mossvl import SamplingParams
from mossvl.device.tower import Tower
from mossvl.errors import GenerationCancelled, OptionError, PromptError
from mossvl.model.loss import token_logprobs

SHAPES, CLIP = str(MEDIA / "shapes.png"), str(MEDIA / "clip_10fps_6s.mp4")
QUERY = {"prompt": "Describe", "images": [SHAPES]}
TEXT = [{"type": "text", "text": "Describe"}]
EIGHT = SamplingParams(max_new_tokens=8, ignore_eos=True)


def test_a_text_is_a_query(llm):
    assert llm.generate("yes", SamplingParams(max_new_tokens=8)).text == " fram fram fram fram fram six fram six"


def test_a_list_gives_a_list_in_its_order_and_a_bad_query_costs_itself_only(llm):
    results = llm.generate(["yes", {"promt": "yes"}, {"prompt": "x", "images": ["missing.png"]}, QUERY], EIGHT)
    assert [result.error is None for result in results] == [True, False, False, True]
    assert "did you mean 'prompt'" in str(results[1].error)
    assert results[3].token_ids == llm.generate(QUERY, EIGHT).token_ids
    with pytest.raises(OptionError, match="promt"):
        llm.generate(["yes", {"promt": "yes"}], EIGHT, raise_on_error=True)


def test_parameters_for_each_query(llm):
    results = llm.generate(["yes", "yes"], [SamplingParams(max_new_tokens=2), SamplingParams(max_new_tokens=5)])
    assert [len(result.token_ids) for result in results] == [2, 5]
    with pytest.raises(OptionError, match="1 entries for 2 queries"):
        llm.generate(["yes", "yes"], [EIGHT])


def test_results_tell_what_was_seen_used_and_how_long_it_took(llm):
    case = CASES["video"]
    result = llm.generate({**case["query"], "generate_kwargs": {"max_new_tokens": case["max_new_tokens"]}})
    assert result.text == case["text"]
    assert result.input_text == case["input_text"]
    (video,) = result.media
    assert video.kind == "video"
    assert len(video.timestamps) == case["grid_thw"][0][0]
    assert result.usage.prompt_tokens == len(case["input_ids"])
    assert result.usage.vision_tokens == video.vision_tokens
    assert result.usage.new_tokens == len(result.token_ids)
    timings = result.timings
    assert 0 < timings.media < timings.first_token < timings.total
    assert timings.vision > 0 and timings.per_token > 0 and timings.queue >= 0


def test_it_is_known_when_each_token_of_each_answer_came(llm):
    handle = llm.submit(QUERY, dataclasses.replace(EIGHT, n=2, temperature=1.0))
    handle.result()
    for draft in handle.drafts:
        assert len(draft.times) == len(draft.tokens) > 1 and draft.times == sorted(draft.times)


def test_a_stream_gives_the_answer_piece_by_piece(llm):
    pieces = list(llm.stream(QUERY, EIGHT))
    assert len(pieces) > 1
    assert "".join(pieces) == llm.generate(QUERY, EIGHT).text


def test_a_stream_that_is_left_is_cancelled(llm):
    handle = llm.stream(QUERY, SamplingParams(max_new_tokens=100_000, ignore_eos=True))
    for _ in handle:
        break
    assert handle.wait(20).finish_reason == "cancelled"


def test_many_threads_may_ask(llm):
    expected = llm.generate(QUERY, EIGHT).text
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(llm.generate(QUERY, EIGHT).text)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [expected] * 6


# --- how an answer ends ------------------------------------------------------------------------------------------


@pytest.fixture
def greedy(llm):
    return llm.generate("Describe", SamplingParams(max_new_tokens=12, ignore_eos=True))


def test_a_stop_text_ends_the_answer_before_it(llm, greedy):
    stop = greedy.text[5:8]
    result = llm.generate("Describe", SamplingParams(max_new_tokens=12, ignore_eos=True, stop=(stop,)))
    assert result.finish_reason == "stop"
    assert result.text == greedy.text[: greedy.text.index(stop)]
    assert len(result.token_ids) < 12


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(llm, greedy):
    stop = greedy.token_ids[5]
    params = SamplingParams(max_new_tokens=12, ignore_eos=True, stop_token_ids=(stop,))
    result = llm.generate("Describe", params)
    assert result.finish_reason == "stop"
    assert result.token_ids == greedy.token_ids[: greedy.token_ids.index(stop)]


def test_the_end_token_ends_the_answer_unless_it_is_ignored(make, monkeypatch, greedy):
    llm = make()
    monkeypatch.setattr(llm.engine, "ends", frozenset({greedy.token_ids[3]}))
    expected = greedy.token_ids[: greedy.token_ids.index(greedy.token_ids[3])]
    assert llm.generate("Describe", SamplingParams(max_new_tokens=12)).token_ids == expected
    assert llm.generate("Describe", SamplingParams(max_new_tokens=12, ignore_eos=True)).token_ids == greedy.token_ids
    assert greedy.finish_reason == "length"


# --- several answers, log-probabilities --------------------------------------------------------------------------


def test_n_answers_are_those_of_n_seeds(llm):
    params = {"max_new_tokens": 6, "temperature": 2.0, "top_k": 0, "ignore_eos": True}
    result = llm.generate(QUERY, SamplingParams(**params, seed=7, n=3))
    alone = [llm.generate(QUERY, SamplingParams(**params, seed=7 + i)).token_ids for i in range(3)]
    assert [answer.token_ids for answer in result.answers] == alone
    assert len({tuple(tokens) for tokens in alone}) == 3
    assert result.usage.new_tokens == 18


def test_logprobs_are_those_of_the_model(llm):
    result = llm.generate(QUERY, SamplingParams(max_new_tokens=5, logprobs=3, ignore_eos=True))
    assert [one.token for one in result.logprobs] == result.token_ids
    for one in result.logprobs:
        assert len(one.top) == 3
        assert one.top[0] == (one.token, pytest.approx(one.logprob))
        assert 0 >= one.top[0][1] >= one.top[1][1] >= one.top[2][1]
    assert llm.generate(QUERY, EIGHT).logprobs is None


@torch.no_grad()
def test_training_gives_drawn_tokens_the_log_probabilities_that_the_engine_reports(llm, model, processor):
    drawn = SamplingParams(max_new_tokens=12, temperature=2.0, top_k=0, seed=3, logprobs=0, ignore_eos=True)
    result = llm.generate(QUERY, drawn)
    prompt = processor.render([{"role": "user", "content": [{"type": "image", "image": SHAPES}, *TEXT]}])
    inputs = processor(prompt, images=[SHAPES])
    asked, said = inputs.pop("input_ids"), torch.tensor(result.token_ids)
    del inputs["attention_mask"], inputs["cross_attention_mask"]
    logits = model(input_ids=torch.cat((asked[0], said))[None], **inputs).logits[0, asked.shape[1] - 1 : -1]
    told = torch.tensor([one.logprob for one in result.logprobs])
    torch.testing.assert_close(token_logprobs(logits, said), told, atol=1e-4, rtol=0)
    assert (logits.argmax(-1) != said).any()  # not only the likeliest were drawn


# --- what is reused ----------------------------------------------------------------------------------------------


def test_a_second_question_about_a_video_computes_little_and_decodes_nothing(make, monkeypatch):
    llm = make(page_size=8)
    query = {"prompt": "Describe", "videos": [CLIP]}
    first = llm.generate(query, EIGHT)
    monkeypatch.setattr(Tower, "_encode_at_once", None)
    monkeypatch.setattr("mossvl.sources.files.Load._read", None)
    second = llm.generate({**query, "prompt": "And then?"}, EIGHT)
    assert second.error is None
    assert second.usage.cached_tokens > 0.6 * first.usage.prompt_tokens
    assert second.media == first.media


def test_what_an_answers_siblings_reuse_is_not_counted_as_cached(llm):
    query = {"prompt": "Describe every part of this picture, please. " * 8, "videos": [CLIP]}
    first = llm.generate(query, SamplingParams(max_new_tokens=4, n=4, temperature=1.0, seed=1))
    assert first.usage.cached_tokens == 0
    assert llm.generate(query, EIGHT).usage.cached_tokens > 0.6 * first.usage.prompt_tokens


def test_the_same_placeholders_with_other_pixels_never_hit(llm):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(2)]
    almost = images[0].copy()
    almost[0, 0, 0] ^= 1
    results = [
        llm.generate({"prompt": "Describe this, please", "images": [one] * 8}, EIGHT) for one in (*images, almost)
    ]
    assert [result.usage.cached_tokens for result in results] == [0, 0, 0]
    again = llm.generate({"prompt": "Describe this, please", "images": [images[0]] * 8}, EIGHT)
    assert again.token_ids == results[0].token_ids


def test_questions_asked_at_once_about_one_video_encode_it_once(make, monkeypatch):
    llm = make()
    encode, encoded = Tower._encode_at_once, []

    def counting(self, pixels, frames, scale):
        encoded.append(len(frames))
        return encode(self, pixels, frames, scale)

    monkeypatch.setattr(Tower, "_encode_at_once", counting)
    queries = [{"prompt": text, "videos": [CLIP]} for text in ("one", "two", "three", "four", "five")]
    together = llm.generate(queries, EIGHT)
    assert sum(encoded) == 6
    alone = [make(prefix_cache=False, vision_cache=0).generate(query, EIGHT).token_ids for query in queries[:2]]
    assert [result.token_ids for result in together][:2] == alone


def test_the_same_picture_elsewhere_is_not_encoded_again(llm, monkeypatch):
    llm.generate(QUERY, EIGHT)
    monkeypatch.setattr(Tower, "_encode_at_once", None)
    other = {"messages": [{"role": "user", "content": ["Look: ", {"image": SHAPES}, " what is it?"]}]}
    assert llm.generate(other, EIGHT).error is None


# --- conversations and asyncio -----------------------------------------------------------------------------------


def test_a_conversation_goes_on_from_its_turns(llm):
    chat = llm.chat("Be brief.", EIGHT)
    first = chat.ask("What is this?", videos=[CLIP])
    pieces = "".join(chat.stream("And then?"))
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert chat.messages[2]["content"] == first.text
    assert chat.messages[4]["content"] == pieces == chat.result.text
    assert chat.result.usage.cached_tokens > 0.5 * first.usage.prompt_tokens
    whole = llm.generate({"messages": chat.messages[:4]}, EIGHT)
    assert whole.text == pieces


def test_a_conversation_keeps_the_calls_of_its_answers(llm):
    chat = llm.chat(params=SamplingParams(max_new_tokens=200))
    schema = {"type": "object", "properties": {"city": {"enum": ["Köln"]}}, "required": ["city"]}
    chat.ask("Where?", tools=[{"name": "look_up", "parameters": schema}], tool_choice="required")
    said = chat.messages[-1]
    (call,) = said["tool_calls"]
    assert (said["content"], call["function"]["name"]) == (None, "look_up")
    assert json.loads(call["function"]["arguments"]) == {"city": "Köln"}
    second = chat.ask("And then?", EIGHT)
    assert "look_up" in second.input_text and "Köln" in second.input_text


def test_a_conversation_begins_with_the_system_prompt_that_is_chosen(llm):
    chat = llm.chat(params=EIGHT, thinking_mode="no_thinking")
    chat.ask("yes")
    chat.ask("no", system_prompt_type="video")
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert "text and/or images" in chat.messages[0]["content"]
    chat.reset()
    chat.ask("yes", system_prompt_type="video")
    assert "video analysis" in chat.messages[0]["content"]
    with pytest.raises(OptionError, match="needs a system_prompt"):
        llm.chat(thinking_mode="thinking")
    with pytest.raises(OptionError, match="did you mean 'thinking_mode'"):
        llm.chat(thinking_mod="thinking")


def test_a_turn_that_fails_leaves_the_conversation_as_it_was(llm):
    chat = llm.chat(params=EIGHT)
    chat.ask("yes")
    before = list(chat.messages)
    with pytest.raises(mossvl.errors.MediaError):
        chat.ask("And this?", images=["missing.png"])
    assert chat.messages == before
    chat.reset()
    assert chat.messages == []


def test_asyncio(llm):
    async def ask():
        pieces = [piece async for piece in llm.stream(QUERY, EIGHT)]
        result = await llm.submit(QUERY, EIGHT)
        many = await llm.agenerate([QUERY, "yes", {"nothing": 1}], EIGHT)
        chat = llm.chat(params=EIGHT)
        first = await chat.aask("yes")
        second = "".join([piece async for piece in chat.astream("no")])
        return pieces, result, many, first, second, chat

    pieces, result, many, first, second, chat = asyncio.run(ask())
    assert "".join(pieces) == result.text == many[0].text
    assert [one.error is None for one in many] == [True, True, False]
    assert [message["content"] for message in chat.messages[1::2]] == [first.text, second]


def test_cancelling_a_task_cancels_its_query(llm):
    async def ask():
        handle = llm.submit(QUERY, SamplingParams(max_new_tokens=100_000, ignore_eos=True))
        task = asyncio.ensure_future(handle.ending())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return handle

    handle = asyncio.run(ask())
    assert isinstance(handle.wait(20).error, GenerationCancelled)


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_bach": 3}, "did you mean 'max_batch'"),
        ({"page_size": 24}, "power of two"),
        ({"memory": -1}, "more than 0"),
        ({"memory": 1.5}, "a page takes"),
        ({"eager": 1}, "true or false"),
        ({"config": mossvl.EngineConfig(), "max_batch": 2}, "not both"),
    ],
)
def test_bad_settings_are_refused_in_words(options, words, model, processor):
    with pytest.raises(OptionError, match=words):
        mossvl.MossVL(model, processor, **options)


def test_wrong_arguments_are_refused_in_words(llm):
    with pytest.raises(OptionError, match="did you mean 'max_new_tokens'"):
        SamplingParams(max_tokens=5)
    with pytest.raises(OptionError, match="did you mean 'memory'"):
        mossvl.EngineConfig(memroy=0.5)
    with pytest.raises(OptionError, match="must be SamplingParams"):
        llm.submit("yes", {"max_new_tokens": 5})
    with pytest.raises(PromptError, match="must be a list of queries"):
        llm.generate(None)
    with pytest.raises(PromptError, match="must be a text or a dict"):
        llm.submit(["a", "b"])


def test_a_model_needs_its_processor(model):
    with pytest.raises(OptionError, match="processor"):
        mossvl.MossVL(model)


def test_messages_that_are_none_are_refused(llm):
    with pytest.raises(PromptError):
        llm.submit({"messages": []})


def test_pixels_of_what_is_found_in_the_cache_are_given_back_at_once(make):
    llm = make(page_size=4, media_cache=0)
    query = {"prompt": "Describe", "videos": [CLIP]}
    llm.generate(query, EIGHT)
    handle = llm.submit(query, SamplingParams(max_new_tokens=100_000, ignore_eos=True))
    next(iter(handle.chunks()))
    held = llm.engine.media_budget.used
    handle.cancel()
    assert handle.wait(20).usage.cached_tokens > 0
    assert held == 0
