"""What clients of vLLM and SGLang send beside OpenAI's fields does what it does there, or is refused by its name."""

import json

import httpx
import pytest
from running import PATIENCE

from mossvl import SamplingParams
from mossvl.errors import InputError
from mossvl.server.config import ServerConfig
from mossvl.server.errors import RequestError
from mossvl.server.reading import Reader
from mossvl.server.schemas.chat import ChatRequest
from mossvl.server.service import parsed

HELLO = [{"role": "user", "content": "Hello"}]
CLIP = {"type": "video_url", "video_url": "https://example.org/a.mp4"}
PICTURE = {"type": "image_url", "image_url": "https://example.org/a.png"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}


def read(media=(), **fields):
    messages = [{"role": "user", "content": [*media, {"type": "text", "text": "Hello"}]}] if media else HELLO
    body = json.dumps({"messages": messages, **fields}).encode()
    return Reader(ServerConfig(), 8, lambda file_id: f"/uploads/{file_id}").read(parsed(ChatRequest, body))


def default(**options):
    return SamplingParams(**{"max_new_tokens": ServerConfig().max_tokens, "top_k": 0, **options})


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"logit_bias": {"5": 1, "7": -200}}, {"logit_bias": {5: 1.0, 7: -100.0}}),
        ({"min_tokens": 3, "max_tokens": 9}, {"min_tokens": 3, "max_new_tokens": 9}),
        ({"priority": -4, "cache_salt": "mine"}, {"priority": -4, "cache_salt": "mine"}),
        ({"skip_special_tokens": False, "top_k": -1}, {"skip_special_tokens": False}),
        ({"prompt_logprobs": 2}, {"prompt_logprobs": 2}),
        ({"guided_json": SCHEMA}, {"json_schema": SCHEMA}),
        ({"guided_json": json.dumps(SCHEMA)}, {"json_schema": SCHEMA}),
        ({"json_schema": json.dumps(SCHEMA)}, {"json_schema": SCHEMA}),
        ({"guided_regex": "a+"}, {"regex": "a+"}),
        ({"regex": "a+"}, {"regex": "a+"}),
        ({"guided_choice": ["a", "b"]}, {"choice": ("a", "b")}),
        ({"guided_grammar": 'start: "a"'}, {"grammar": 'start: "a"'}),
        ({"ebnf": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
        ({"structured_outputs": {"json": SCHEMA}}, {"json_schema": SCHEMA}),
        ({"structured_outputs": {"regex": "a+", "json": None}}, {"regex": "a+"}),
        ({"structured_outputs": {"choice": ["a", "b"]}}, {"choice": ("a", "b")}),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, {"grammar": 'root ::= "a"'}),
        ({"structured_outputs": {"json_object": True}}, {"json_schema": {"type": "object"}}),
        ({"structured_outputs": {"json_object": False}}, {}),
        ({"response_format": {"type": "text"}, "regex": "a+"}, {"regex": "a+"}),
        ({"use_beam_search": False}, {}),
    ],
)
def test_fields_are_the_options_that_they_name(fields, options):
    assert read(**fields).params == default(**options)


def test_null_is_as_if_it_were_not_there():
    names = [*ChatRequest.model_fields, "best_of_all", "nonsense"]
    assert read(**{name: None for name in names if name != "messages"}).params == default()
    part = {"type": "video_url", "video_url": {"url": "https://a.org/b", "fps": None, "unknown": None}, "uuid": None}
    assert read([part]).query.turn[0]["content"][0] == {"type": "video", "video": "https://a.org/b"}
    constant = {"const": None, "enum": [None], "default": None}
    assert read(guided_json=constant).params.json_schema == json.dumps(constant)


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"media_io_kwargs": {"video": {"num_frames": 4}}}, {"min_frames": 4, "max_frames": 4}),
        ({"media_io_kwargs": {"video": {"fps": 2}}}, {"video_fps": 2.0}),
        ({"media_io_kwargs": {"video": {"fps": 2, "num_frames": 4}}}, {"video_fps": 2.0, "max_frames": 4}),
        ({"mm_processor_kwargs": {"fps": 3, "max_frames": 5}}, {"video_fps": 3, "max_frames": 5}),
        ({"mm_processor_kwargs": {"num_frames": 6}}, {"min_frames": 6, "max_frames": 6}),
        (
            {"mm_processor_kwargs": {"num_frames": 6, "fps": 1}, "media_io_kwargs": {"video": {"num_frames": 2}}},
            {"video_fps": 1, "min_frames": 2, "max_frames": 2},
        ),
    ],
)
def test_options_of_videos_are_those_of_each_that_has_none(fields, options):
    own = {"type": "video_url", "video_url": {"url": "https://a.org/b", "fps": 5, "max_frames": 3}}
    first, second, third = read([CLIP, own, PICTURE], **fields).query.turn[0]["content"][:3]
    assert first == {"type": "video", "video": "https://example.org/a.mp4"} | options
    assert second == {"type": "video", "video": "https://a.org/b", "video_fps": 5.0, "max_frames": 3}
    assert third == {"type": "image", "image": "https://example.org/a.png"}


def test_sizes_are_of_images_and_videos_or_of_one_kind():
    size = {"size": {"shortest_edge": 4096, "longest_edge": 8192}}
    picture, clip = read([PICTURE, CLIP], mm_processor_kwargs=size).query.turn[0]["content"][:2]
    assert (picture["min_pixels"], picture["max_pixels"]) == (clip["min_pixels"], clip["max_pixels"]) == (4096, 8192)
    picture, clip = read([PICTURE, CLIP], mm_processor_kwargs={"images_kwargs": size}).query.turn[0]["content"][:2]
    assert picture["max_pixels"] == 8192 and "max_pixels" not in clip


def test_frames_that_all_videos_get_count_for_the_limit():
    with pytest.raises(RequestError, match="max_frames of all videos: 1200 is more"):
        read([CLIP, CLIP], media_io_kwargs={"video": {"num_frames": 600}})
    assert read([CLIP] * 2, media_io_kwargs={"video": {"num_frames": 500}}).query.media.max_frames == 8


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"guided_json": SCHEMA, "regex": "a"}, "guided_json, regex exclude each other"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "structured_outputs.regex, response_format exclude",
        ),
        ({"guided_json": {"a": "b" * 60_000}}, "guided_json has 600.. characters; at most 50000"),
        ({"structured_outputs": {"jsn": {}}}, "unknown key; did you mean 'json'"),
        ({"guided_jso": {}}, "did you mean 'guided_json'"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag: unknown key"),
        ({"guided_grammar": "root ::= other"}, "cannot be used"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens=5 is more than"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"prompt_logprobs": 1, "stream": True}, "leave out stream"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"request_id": "a b"}, "request_id"),
        ({"logit_bias": {"x": 1}}, "logit_bias: token id"),
        ({"logit_bias": {"-1": 1}}, "logit_bias: token id"),
        ({"best_of": 2}, "best_of is not supported"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "exclude each other"),
        ({"media_io_kwargs": {"video": {"num_frame": 3}}}, "did you mean 'num_frames'"),
        ({"mm_processor_kwargs": {"max_frame": 3}}, "^mm_processor_kwargs: .* did you mean 'max_frames'"),
        ({"mm_processor_kwargs": {"videos_kwargs": {"fps": -1}}}, "^mm_processor_kwargs: video_fps=-1 must be"),
        ({"mm_processor_kwargs": {"video_max_pixels": 10**9}}, "a setting of the server"),
        (
            {"mm_processor_kwargs": {"videos_kwargs": {"nonsense": 1}}},
            "^mm_processor_kwargs: unknown media option 'nonsense'; known: fps, max_frames, max_pixels, min_frames, "
            "min_pixels, num_frames, size, timestamps$",
        ),
        ({"mm_processor_kwargs": {"min_pixels": 9, "max_pixels": 8}}, "^mm_processor_kwargs: min_pixels=9 is more"),
        (
            {"mm_processor_kwargs": {"min_pixels": 9, "videos_kwargs": {"max_pixels": 8}}},
            "^mm_processor_kwargs: min_pixels=9 is more",
        ),
        ({"media_io_kwargs": {"video": {"fps": 1e300}}}, r"^media_io_kwargs: fps=1e\+300 must be"),
        ({"chat_template_kwargs": {"messages": []}}, "cannot be set there"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(fields, words):
    with pytest.raises((InputError, RequestError), match=words):
        read(**fields)


NO_SCHEMA = {"type": "nothing"}


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("chat/completions", {"guided_json": NO_SCHEMA}, "guided_json"),
        ("chat/completions", {"json_schema": NO_SCHEMA}, "json_schema"),
        ("chat/completions", {"mm_processor_kwargs": {"max_frame": 3}}, "mm_processor_kwargs"),
        ("chat/completions", {"structured_outputs": {"json": NO_SCHEMA}}, "structured_outputs.json"),
        (
            "chat/completions",
            {"response_format": {"type": "json_schema", "json_schema": {"schema": NO_SCHEMA}}},
            "response_format",
        ),
        ("chat/completions", {"ebnf": "root ::= other"}, "ebnf"),
        ("chat/completions", {"media_io_kwargs": {"video": {"fps": 1e300}}}, "media_io_kwargs"),
        ("chat/completions", {"chat_template_kwargs": {"nonsense": 1}}, "chat_template_kwargs"),
        ("chat/completions", {"stop_token_ids": [10**9]}, "stop_token_ids"),
        ("responses", {"stop_token_ids": [10**9]}, "stop_token_ids"),
        ("completions", {"guided_regex": "("}, "guided_regex"),
        ("completions", {"ignore_eos": True, "guided_choice": ["a"]}, "guided_choice"),
        ("responses", {"text": {"format": {"type": "json_schema", "schema": NO_SCHEMA}}}, "text.format"),
        (
            "messages",
            {"output_config": {"format": {"type": "json_schema", "schema": NO_SCHEMA}}},
            "output_config.format",
        ),
    ],
)
def test_what_cannot_be_used_is_told_by_the_field_of_the_request(server, path, fields, param):
    asked = {"completions": {"prompt": "a"}, "responses": {"input": "a"}}.get(path, {"messages": HELLO})
    length = {"max_tokens": 4} if path == "messages" else {}
    answer = httpx.post(f"{server.url}/v1/{path}", json=asked | length | fields, timeout=PATIENCE)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_option", param)
    assert error["message"].startswith(param)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages"])
def test_a_function_whose_schema_has_a_number_that_json_does_not_know_is_refused(server, path, number):
    schema = {"type": "object", "properties": {"a": {"anyOf": [{"type": "number", "maximum": "NUMBER"}]}}}
    function = {"name": "f", "parameters": schema}
    body = {
        "chat/completions": {"messages": HELLO, "tools": [{"type": "function", "function": function}]},
        "responses": {"input": "a", "tools": [{"type": "function", **function}]},
        "messages": {"messages": HELLO, "max_tokens": 4, "tools": [{"name": "f", "input_schema": schema}]},
    }[path]
    content = json.dumps(body).replace('"NUMBER"', number)
    answer = httpx.post(f"{server.url}/v1/{path}", content=content, timeout=PATIENCE)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_option", "tools")
    assert "tools[0]: the parameters of 'f' have NaN or an infinite number" in error["message"]


# --- in a server -----------------------------------------------------------------------------------------------------


def ask(server, **fields):
    answer = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": HELLO, **fields}, timeout=PATIENCE)
    return answer.json()


def text_of(answer):
    return answer["choices"][0]["message"]["content"]


def test_an_answer_carries_the_requests_id(server):
    assert ask(server, request_id="mine-1", max_tokens=1)["id"] == "chatcmpl-mine-1"


def test_prompt_log_probabilities_are_told_as_vllm_tells_them(server):
    answer = ask(server, prompt_logprobs=1, max_tokens=1)
    first, *rest = answer["prompt_logprobs"]
    assert first is None and len(rest) + 1 == answer["usage"]["prompt_tokens_details"]["text_tokens"]
    for one in rest:
        assert 1 <= len(one) <= 2
        assert all(told.keys() == {"logprob", "rank", "decoded_token"} for told in one.values())
        assert min(told["rank"] for told in one.values()) == 1
    assert "Hello" in "".join(next(iter(one.values()))["decoded_token"] for one in rest)
    assert "prompt_logprobs" not in ask(server, max_tokens=1)


def test_an_answer_has_the_form_that_is_asked_for(server):
    assert text_of(ask(server, guided_choice=["left", "right"])) in ("left", "right")
    assert text_of(ask(server, ebnf='root ::= "x" [0-9]')).startswith("x")
    assert json.loads(text_of(ask(server, structured_outputs={"json": SCHEMA}))).keys() == {"a"}
    cut = ask(server, guided_regex="[a-z]{40}", max_tokens=2)
    assert cut["choices"][0]["finish_reason"] == "length"


def test_an_answer_goes_on_with_the_final_message(server):
    talk = [{"role": "user", "content": "Hello"}]
    said = text_of(ask(server, messages=talk, max_tokens=12, ignore_eos=True))
    half = said[: len(said) // 2].rstrip()
    talk.append({"role": "assistant", "content": half})
    prompt = ask(server, messages=talk, continue_final_message=True, add_generation_prompt=False, prompt_logprobs=0)
    written = "".join(next(iter(one.values()))["decoded_token"] for one in prompt["prompt_logprobs"][1:])
    assert written.endswith(f"assistant\n{half}")


def test_a_prefix_is_cached_for_its_salt_alone(server):
    talk = [{"role": "user", "content": "A long story about a fox, " * 30}]
    cached = [
        ask(server, messages=talk, max_tokens=1, cache_salt=salt)["usage"]["prompt_tokens_details"]["cached_tokens"]
        for salt in ("a", "b", "a")
    ]
    assert cached[:2] == [0, 0] and cached[2] > 50


def test_a_prompt_that_is_too_long_is_told_in_words_that_clients_know(server):
    answer = ask(server, messages=[{"role": "user", "content": "word " * 20_000}])
    assert answer["error"]["code"] == "context_length_exceeded"
    assert "this model's maximum context length is 8192 tokens" in answer["error"]["message"]
