"""Completions of plain prompts, asked for with OpenAI's client over a real socket."""

import math
import re

import httpx
import openai
import pytest
from running import PATIENCE, waited

from mossvl.checkpoints.default import CHECKPOINT
from mossvl.processing.processor import MossVLProcessor

HELLO = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
OTHER = "<|im_start|>user\nDescribe the picture.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=PATIENCE, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer():
    return MossVLProcessor.from_pretrained(CHECKPOINT).tokenizer


def complete(client, prompt, **options):
    return client.completions.create(model="mossvl-tiny", prompt=prompt, **options)


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_a_prompt_goes_to_the_model_as_it_is(client, tokenizer):
    answer = complete(client, HELLO)
    chat = client.chat.completions.create(model="mossvl-tiny", messages=[{"role": "user", "content": "Hello"}])
    assert answer.choices[0].text == chat.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == len(tokenizer(HELLO)["input_ids"]) == chat.usage.prompt_tokens
    assert answer.usage.completion_tokens == chat.usage.completion_tokens


def test_a_text_and_its_tokens_are_the_same_prompt(client, tokenizer):
    texts = [HELLO, OTHER, "Once upon a time"]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    answers = [complete(client, text).choices[0].text for text in texts]
    assert [choice.text for choice in complete(client, texts).choices] == answers
    assert [choice.text for choice in complete(client, ids).choices] == answers
    assert complete(client, ids[1]).choices[0].text == answers[1]
    assert len(set(answers)) > 1


def test_answers_to_several_prompts_are_numbered_by_prompt(client):
    options = {"n": 2, "temperature": 1.5, "seed": 5}
    both = complete(client, [HELLO, OTHER], **options)
    alone = [complete(client, prompt, **options) for prompt in (HELLO, OTHER)]
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert [one.text for one in both.choices] == [one.text for answer in alone for one in answer.choices]
    assert both.usage.total_tokens == sum(answer.usage.total_tokens for answer in alone)


# --- options ---------------------------------------------------------------------------------------------------------


def test_an_answer_has_16_tokens_unless_it_is_told_otherwise(client):
    for given, drawn in ({}, 16), ({"max_tokens": 3}, 3):
        answer = complete(client, HELLO, extra_body={"ignore_eos": True}, **given)
        assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (drawn, "length")


def test_an_answer_ends_before_a_stop_string(client):
    whole = complete(client, HELLO).choices[0].text
    stop = whole[3:6]
    assert complete(client, HELLO, stop=stop).choices[0].text == whole[: whole.index(stop)]


def test_an_answer_may_begin_with_its_prompt(client, tokenizer):
    answer = complete(client, HELLO).choices[0].text
    assert complete(client, HELLO, echo=True).choices[0].text == HELLO + answer
    assert complete(client, tokenizer(HELLO)["input_ids"], echo=True).choices[0].text == HELLO + answer


def test_log_probabilities_tell_tokens_and_where_they_begin(client):
    choice = complete(client, HELLO, logprobs=2, stop=".").choices[0]
    told = choice.logprobs
    assert "".join(told.tokens).startswith(choice.text)
    assert told.text_offset == [len("".join(told.tokens[:place])) for place in range(len(told.tokens))]
    for token, logprob, best in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert best[token] == logprob == max(best.values()) and len(best) == 2


def test_an_echoed_prompt_has_log_probabilities_and_may_stand_alone(client, tokenizer):
    ids = tokenizer(HELLO)["input_ids"]
    answer = complete(client, HELLO, echo=True, logprobs=1, max_tokens=0)
    told = answer.choices[0].logprobs
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (HELLO, "length")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), 0)
    assert "".join(told.tokens) == HELLO and len(told.tokens) == len(ids)
    assert told.token_logprobs[0] is None and told.top_logprobs[0] is None
    assert all(math.exp(logprob) <= 1 for logprob in told.token_logprobs[1:])
    longer = complete(client, ids, echo=True, logprobs=1, max_tokens=2).choices[0].logprobs
    assert longer.tokens[: len(ids)] == told.tokens and len(longer.tokens) == len(ids) + 2
    assert longer.token_logprobs[1 : len(ids)] == pytest.approx(told.token_logprobs[1:], abs=1e-3)
    # The tokens of an answer, asked for again as a prompt's, are as likely.
    drawn = complete(client, HELLO, logprobs=0, max_tokens=2).choices[0]
    again = complete(client, HELLO + drawn.text, echo=True, logprobs=0, max_tokens=0).choices[0].logprobs
    assert again.token_logprobs[len(ids) :] == pytest.approx(drawn.logprobs.token_logprobs, abs=1e-3)


def test_a_form_is_kept(client):
    answer = complete(client, HELLO, extra_body={"regex": "[0-9]{3}-[0-9]{2}"})
    assert re.fullmatch("[0-9]{3}-[0-9]{2}", answer.choices[0].text)


# --- streams ---------------------------------------------------------------------------------------------------------


def test_a_stream_has_the_texts_and_then_what_they_cost(client):
    options = {"n": 2, "temperature": 1.5, "seed": 5, "echo": True}
    whole = complete(client, [HELLO, OTHER], **options)
    texts, reasons, usage = [""] * 4, [None] * 4, None
    for chunk in complete(client, [HELLO, OTHER], stream=True, stream_options={"include_usage": True}, **options):
        for choice in chunk.choices:
            assert reasons[choice.index] is None
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason
        usage = chunk.usage
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage.total_tokens == whole.usage.total_tokens


def test_every_chunk_tells_its_cost_so_far_where_that_is_asked_for(client):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(complete(client, [HELLO, OTHER], stream=True, echo=True, stream_options=options))
    costs = [chunk.usage.completion_tokens for chunk in chunks]
    assert costs == sorted(costs) and len(set(costs)) > 2
    assert {chunk.usage.prompt_tokens for chunk in chunks} == {chunks[-1].usage.prompt_tokens}


def test_log_probabilities_are_streamed(client):
    whole = complete(client, HELLO, logprobs=1).choices[0].logprobs
    chunks = [chunk.choices[0].logprobs for chunk in complete(client, HELLO, logprobs=1, stream=True)]
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert [one for chunk in chunks for one in getattr(chunk, name)] == pytest.approx(getattr(whole, name))


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({}, "prompt", "required"),
        ({"prompt": ""}, "prompt", "is empty"),
        ({"prompt": []}, "prompt", "at least 1 item"),
        ({"prompt": [[]]}, "prompt.0", "at least 1 item"),
        ({"prompt": [1, "a"]}, "prompt.1", "valid integer"),
        ({"prompt": [-1]}, "prompt.0", "greater than or equal to 0"),
        ({"prompt": ["a", 1]}, "prompt.1", "valid string"),
        ({"prompt": [10**6]}, "prompt", "the token 1000000, but the model knows"),
        ({"prompt": ["a", "a <|image_pad|>"]}, "prompt", "has no images"),
        ({"prompt": "a " * 9000}, "prompt", "context"),
        ({"prompt": "a" * 500_001}, "prompt", "--max-text"),
        ({"prompt": ["a"] * 257}, "prompt", "--max-queue"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "suffix is not supported"),
        ({"prompt": "a", "best_of": 3}, "best_of", "best_of is not supported"),
        ({"prompt": "a", "max_tokens": 10**6}, "max_tokens", "--max-tokens"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens", "needs echo"),
        ({"prompt": "a", "n": 9}, "n", "--max-answers"),
        ({"prompt": "a", "logprobs": "b"}, "logprobs", "valid integer"),
        ({"prompt": "a", "logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"prompt": "a", "echo": True, "logprobs": 1, "stream": True}, "logprobs", "leave out stream"),
        ({"prompt": "a", "logit_bias": {"1000000": 1}}, "logit_bias", "the token 1000000"),
        ({"prompt": "a", "regex": "("}, "regex", "cannot be used"),
        ({"prompt": "a", "response_format": {"type": "regex", "pattern": "("}}, "response_format", "cannot be used"),
        ({"prompt": "a", "messages": []}, "messages", "unknown key"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_used_is_refused_with_its_field(server, given, param, words, stream):
    answer = httpx.post(f"{server.url}/v1/completions", json={"stream": stream, **given}, timeout=PATIENCE)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert re.search(words, error["message"])


def test_a_prompt_that_fails_ends_the_others(server):
    body = {"prompt": [HELLO, [10**6]], "max_tokens": 5000, "ignore_eos": True}
    assert httpx.post(f"{server.url}/v1/completions", json=body, timeout=PATIENCE).status_code == 400
    running = re.compile(r"^mossvl_requests_running 0\.0$", re.MULTILINE)
    waited(lambda: running.search(httpx.get(f"{server.url}/metrics").text), server)
