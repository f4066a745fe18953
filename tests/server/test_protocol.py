"""What is read out of a request, and what is refused of it: no server needed."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mossvl.errors import InputError, OptionError
from mossvl.options import SamplingParams
from mossvl.server.config import ServerConfig
from mossvl.server.errors import RequestError, refusal
from mossvl.server.reading import Reader
from mossvl.server.schemas.chat import ChatRequest
from mossvl.server.schemas.frames import FramesRequest
from mossvl.server.service import parsed

SMALL = ServerConfig(max_media=2, max_frames=10, max_pixels=10_000, max_text=100, max_tokens=50, max_answers=2)
HELLO = [{"role": "user", "content": "Hello"}]


def read(config=SMALL, **request):
    body = ChatRequest.model_validate({"messages": HELLO} | request)
    return Reader(config, 8, lambda number: f"/uploads/{number}").read(body)


def video(**options):
    return {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4", **options}}


def frames(count):
    one = {"url": "data:image/png;base64,AA=="}
    return {"type": "video_frames", "video_frames": {"frames": [one | {"timestamp": time} for time in range(count)]}}


def asking(*parts):
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}]


def test_options_reach_the_sampler():
    params = read(
        max_completion_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        min_p=0.1,
        n=2,
        stop="x",
        seed=-1,
        logprobs=True,
        top_logprobs=2,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.5,
        ignore_eos=True,
    ).params
    assert params == SamplingParams(
        max_new_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        min_p=0.1,
        n=2,
        stop=("x",),
        seed=-1,
        logprobs=2,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.5,
        ignore_eos=True,
    )


def test_the_likeliest_tokens_are_taken_where_nothing_is_said():
    assert read().params == SamplingParams(max_new_tokens=50, top_k=0)
    assert read().query.generation.timeout == SMALL.timeout


def test_media_become_parts_with_their_options():
    frames = {
        "type": "video_frames",
        "video_frames": {"frames": [{"timestamp": 1, "url": "upload:x"}], "max_frames": 3, "timestamps": "published"},
    }
    picture = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,AA==", "detail": "low", "max_pixels": 5000},
    }
    query = read(
        ServerConfig(), messages=asking(video(fps=2, min_frames=2, segments=[[0, 2], [3]]), frames, picture)
    ).query
    assert query.turn[0]["content"][:3] == [
        {
            "type": "video",
            "video": {"video_path": "https://example.org/a.mp4", "segments": [[0, 2], [3]]},
            "min_frames": 2,
            "video_fps": 2.0,
        },
        {"type": "video", "video": [(1.0, "/uploads/x")], "max_frames": 3, "timestamps": "published"},
        {"type": "image", "image": "data:image/png;base64,AA==", "max_pixels": 5000},
    ]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"messages": asking(video(), video(), video())}, r"number of media: 3 is more .* 2 \(--max-media\)"),
        (
            {"messages": asking(video(max_frames=6), video(max_frames=5))},
            r"max_frames of all videos: 11 .* 10 \(--max-frames\)",
        ),
        ({"messages": asking(frames(11))}, r"number of frames: 11 .* 10 \(--max-frames\)"),
        ({"messages": asking(video(max_pixels=20_000))}, r"max_pixels: 20000 .* \(--max-pixels\)"),
        ({"messages": asking(video(min_pixels=20_000))}, r"min_pixels: 20000 .* \(--max-pixels\)"),
        ({"messages": [{"role": "user", "content": "x" * 101}]}, r"characters: 101 .* 100 \(--max-text\)"),
        ({"max_completion_tokens": 51}, r"max_completion_tokens: 51 .* 50 \(--max-tokens\)"),
        ({"n": 3}, r"n: 3 is more .* 2 \(--max-answers\)"),
        ({"messages": asking({"type": "image_url", "image_url": "/etc/passwd"})}, "no URL of a known scheme"),
        ({"messages": asking({"type": "image_url", "image_url": "gopher://x/"})}, "no URL of a known scheme"),
        ({"functions": [{"name": "f"}]}, "functions is not supported; send tools"),
        ({"best_of": True}, "best_of is not supported"),
        ({"length_penalty": 1.5}, "length_penalty is not supported"),
        ({"use_beam_search": True}, "use_beam_search is not supported"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"response_format": {"type": "json_schema"}}, "needs json_schema"),
        ({"response_format": {"type": "regex"}}, "needs a pattern"),
        ({"response_format": {"type": "regex", "pattern": "("}}, "cannot be used"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": "b" * 60_000}}}}, "at most 50000"),
    ],
)
def test_what_is_beyond_a_limit_or_unknown_is_refused_by_name(request_, words):
    with pytest.raises((InputError, RequestError), match=words):
        read(**request_)


@pytest.mark.parametrize(
    ("request_", "what", "param"),
    [
        ({"messages": asking(video(), video(), video())}, "number of media", "messages"),
        ({"messages": asking(frames(11))}, "number of frames", "messages"),
        ({"messages": asking(video(max_pixels=20_000))}, "max_pixels", "messages"),
        ({"max_completion_tokens": 51}, "max_completion_tokens", "max_completion_tokens"),
        ({"max_tokens": 51}, "max_tokens", "max_tokens"),
        ({"n": 3}, "n", "n"),
    ],
)
def test_what_is_beyond_a_limit_is_a_parameter_that_was_given(request_, what, param):
    with pytest.raises(RequestError, match=f"^{what}: .* is more") as refused:
        read(**request_)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("part", "place", "words"),
    [
        (video(fps=0), "messages.0.content.0.video_url.fps", "greater than 0"),
        (video(fps="2"), "messages.0.content.0.video_url.fps", "valid number"),
        (video(timestamps="true"), "messages.0.content.0.video_url.timestamps", "'actual' or 'published'"),
        (video(video_fps=2), "messages.0.content.0.video_url.video_fps", "did you mean 'fps'"),
        (video() | {"fps": 2}, "messages.0.content.0.fps", "unknown key; known here: type, video_url$"),
        ({"type": "text", "text": 3}, "messages.0.content.0.text", "valid string"),
        ({"type": "image_url", "image_url": {}}, "messages.0.content.0.image_url.url", "required"),
        (video(segments=[]), "messages.0.content.0.video_url.segments", "at least 1 item"),
        ({"type": "input_audio"}, "messages.0.content.0", "type 'input_audio' is none of 'text', 'image_url'"),
        (frames(0), "messages.0.content.0.video_frames.frames", "at least 1 item"),
    ],
)
def test_what_is_wrong_in_a_part_is_named(part, place, words):
    with pytest.raises(RequestError, match=words) as refused:
        parsed(ChatRequest, json.dumps({"messages": asking(part)}).encode())
    assert refused.value.param == place


def test_answers_may_be_sent_back_as_they_came_and_options_may_be_null():
    answer = {"role": "assistant", "content": None, "refusal": None, "annotations": [], "tool_calls": None}
    nulls = dict.fromkeys(("stream", "stream_options", "n", "temperature", "tools", "logit_bias", "stop", "seed"))
    asked = read(messages=[*HELLO, answer, *HELLO], **nulls, tool_choice="none")
    assert asked.query.turn[1] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [{"role": "king", "content": "a"}]}', "messages.0.role"),
        (b'{"messages": [{"role": "user", "content": "a"}], "temprature": 1}', "temprature"),
        (b'{"messages": [{"role": "user", "content": "a"}], "temperature": 3}', "temperature"),
        (b'{"messages": [{"role": "user", "content": "a"}], "n": 0}', "n"),
        (b'{"message": [{"role": "user", "content": "a"}]}', "message"),
        (b'{"messages": [{"role": "user", "content": "a"}], "stop": ""}', "stop"),
        (b'{"messages": [{"role": "user", "content": "a"}], "": 1}', ""),
        (b'{"messages": [{"role": "user", "content": "a"}], "response_format": {}}', "response_format.type"),
        (b'{"messages": [{"role": "user", "content": "a"}], "stop": [""]}', "stop"),
        (b'{"messages": [%s0]}' % (b"0," * 5000), "messages.0"),
        (b'{"messages": [], "metadata": [%s[]]}' % (b"[]," * 300_000), None),
        (b'{"messages": [{"role": "user", "content": "a", "images": ["x"]}]}', "messages.0.images"),
        (b"\xff\xfe", None),
    ],
)
def test_a_body_of_another_form_is_refused_with_the_place(body, param):
    with pytest.raises(RequestError) as refused:
        parsed(ChatRequest, body)
    assert refused.value.status == 400
    assert refused.value.param == param or refused.value.param.startswith(f"{param}.")


def refused(body, form=ChatRequest):
    with pytest.raises(RequestError) as found:
        parsed(form, json.dumps(body).encode())
    return found.value


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"stop": ["a"] * 17}, "stop: List should have at most 16 items, not 17"),
        ({"stop": "a" * 257}, "stop: String should have at most 256 characters, not 257"),
        ({"stop": ["a", ""]}, "stop.1: String should have at least 1 character, not 0"),
        ({"stop_token_ids": [1] * 1001}, "stop_token_ids: List should have at most 1000 items, not 1001"),
        ({"n": 0}, "n: Input should be greater than or equal to 1, not 0"),
        ({"temperature": 3}, "temperature: Input should be less than or equal to 2, not 3"),
        ({"seed": 1.5}, "seed: Input should be a valid integer, not 1.5"),
        ({"top_k": "a"}, "top_k: Input should be a valid integer, not 'a'"),
        ({"messages": 5}, "messages: Input should be a valid array, not 5"),
        (
            {"messages": [{"role": "user", "content": [{"text": "a"}]}]},
            "messages.0.content.0: a part needs a type: 'text', 'image_url', 'video_url', 'video_frames', 'file'",
        ),
    ],
)
def test_a_value_that_is_refused_is_told_with_what_was_given(given, told):
    assert str(refused({"messages": HELLO, **given})) == told


def test_of_several_problems_the_unknown_key_is_told_and_of_several_forms_the_nearest():
    assert "stop.0: String should have at least 1 character" in str(refused({"messages": HELLO, "stop": [""]}))
    assert "did you mean 'temperature'" in str(refused({"messages": HELLO, "n": 0, "temprature": 1}))
    assert "leave it out" in str(refused({"messages": HELLO, "foo": 1}))
    assert len(str(refused({"messages": HELLO, "x" * 10_000: 1}))) < 200


@pytest.mark.parametrize(
    ("request_", "param", "words"),
    [
        (
            {"messages": [*HELLO, {"role": "tools", "tool_call_id": "1", "content": "4"}]},
            "messages.1.role",
            "'tools' is none of 'system', 'developer', 'user', 'assistant' or 'tool'",
        ),
        (
            {"messages": [{"role": "function", "name": "f", "content": "4"}]},
            "messages.0.role",
            "'function' is none of 'system', 'developer', 'user', 'assistant' or 'tool'; send the result of a call",
        ),
        ({"messages": [{"role": "king", "crown": 1}], "temprature": 1}, "messages.0.role", "'king' is none of"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "messages.0.role", "['user'] is none of"),
        (
            {"messages": HELLO, "response_format": {"type": "grammar", "grammar": "a"}},
            "response_format.type",
            "'grammar' is none of 'text', 'json_object', 'json_schema' or 'regex'",
        ),
        ({"messages": HELLO, "documents": []}, "documents", "unknown key; leave it out"),
        ({"messages": HELLO, "tool": {}}, "tool", "unknown key; did you mean 'tools'?"),
        ({"messages": HELLO, "prompt": "a"}, "prompt", "unknown key; leave it out"),
        (
            {"messages": [HELLO[0] | {"tool_id": "1"}]},
            "messages.0.tool_id",
            "unknown key; did you mean 'tool_call_id'?",
        ),
        ({"messages": [HELLO[0] | {"contents": "a"}]}, "messages.0.contents", "did you mean 'content'?"),
    ],
)
def test_a_wrong_role_or_type_is_told_first_and_a_key_only_when_it_is_near(request_, param, words):
    error = refused(request_)
    assert error.param == param and words in str(error)


def test_what_is_wrong_with_a_preview_is_named_where_it_is():
    assert refused({"part": {"type": "image_url", "image_url": {}}}, FramesRequest).param == "part.image_url.url"
    assert refused({"part": video(frames=3)}, FramesRequest).param == "part.video_url.frames"
    with pytest.raises(RequestError, match="is more") as beyond:
        Reader(SMALL, 8, str).shared([FramesRequest.model_validate({"part": video(max_frames=11)}).part], "part")
    assert beyond.value.param == "part"


@pytest.mark.parametrize(
    ("given", "param", "known"),
    [
        ({"response_format": {"type": "text", "x": 1}}, "response_format.x", "type, json_schema, pattern"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "x": 1}}},
            "response_format.json_schema.x",
            "name, description, schema, strict",
        ),
        (
            {"messages": asking({"type": "video_frames", "video_frames": {"frames": [{"url": "u", "x": 1}]}})},
            "messages.0.content.0.video_frames.frames.0.x",
            "timestamp, url",
        ),
        (
            {"messages": asking({"type": "image_url", "image_url": {"url": "u", "x": 1}})},
            "messages.0.content.0.image_url.x",
            "url, detail, min_pixels, max_pixels",
        ),
    ],
)
def test_an_unknown_key_is_told_with_the_keys_of_its_place(given, param, known):
    error = refused({"messages": HELLO, **given})
    assert (error.param, str(error)) == (param, f"{param}: unknown key; known here: {known}")


@pytest.mark.parametrize(("own", "left"), [([1], 8), ([6], 4), ([2, 5], 3), ([10], 1)])
def test_videos_without_a_number_of_frames_share_what_the_others_leave_of_the_servers_limit(own, left):
    videos = [video(max_frames=frames) for frames in own]
    claimed = [FramesRequest.model_validate({"part": one}).part for one in videos]
    assert Reader(SMALL, 8, str).shared(claimed) == {"max_frames": left}


def test_segments_count_as_frames():
    with pytest.raises(RequestError, match="max_frames of all videos: 11") as refused:
        read(messages=asking(video(segments=[[second] for second in range(11)])))
    assert refused.value.param == "messages"
    assert read(messages=asking(video(segments=[[1], [2]]))).query.media.max_frames == 8


@pytest.mark.parametrize(
    ("given", "read_as"),
    [
        ("DATA:image/png;base64,AA==", "data:image/png;base64,AA=="),
        (" data:image/png;base64,A\nA==\n", "data:image/png;base64,AA=="),
        ("UPLOAD:x", "/uploads/x"),
        ("file:/a", "file:///a"),
    ],
)
def test_schemes_are_read_in_any_case(given, read_as):
    part = {"type": "image_url", "image_url": given}
    assert read(messages=asking(part)).query.turn[0]["content"][0]["image"] == read_as


def test_five_thousand_malformed_bodies_are_refused_and_nothing_else():
    medium = video(segments=[[0, 1]])
    good = json.dumps({"messages": asking(medium), "n": 1, "stop": ["a"], "response_format": {"type": "text"}}).encode()
    reader = Reader(SMALL, 8, str)

    @settings(max_examples=5000, deadline=None, database=None)
    @given(st.data())
    def refused_or_read(data):
        start = data.draw(st.integers(0, len(good)))
        stop = data.draw(st.integers(start, min(len(good), start + 12)))
        json_bits = st.sampled_from(
            [b"null", b"{}", b"[]", b"-1", b"1e999", b'"', b"true", b"[[[[", b"\x00", b'"\\ud800"']
        )
        body = good[:start] + data.draw(st.one_of(st.binary(max_size=8), json_bits)) + good[stop:]
        statuses = []
        try:
            reader.read(parsed(ChatRequest, body))
        except (InputError, RequestError) as error:
            statuses.append(refusal(error).status)
        assert all(400 <= status < 500 for status in statuses)

    refused_or_read()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org"])
def test_others_are_let_in_only_with_a_key_or_when_it_is_said(host):
    with pytest.raises(OptionError, match="api_keys or MOSSVL_API_KEY"):
        ServerConfig(host=host)
    assert ServerConfig(host=host, api_keys=("secret",)).host == ServerConfig(host=host, open_to_all=True).host


@pytest.mark.parametrize(
    "options",
    [
        {"port": 70_000},
        {"max_queue": 0},
        {"timeout": -1},
        {"api_keys": ("",)},
        {"hots": 1},
        {"media_dirs": ("/none",)},
        {"media_domains": ("http://x",)},
        {"origins": ("example.org",)},
        {"origins": ("https://example.org/page",)},
        {"origins": ("https://Example.org",)},
        {"origins": ("https://example.org:443",)},
        {"origins": ("https://*.example.org",)},
        {"origins": ("https://bücher.example",)},
        {"origins": ("https://[::1",)},
        {"origins": ("*",)},
    ],
)
def test_settings_that_cannot_be_are_refused(options):
    with pytest.raises(OptionError):
        ServerConfig(**options)
