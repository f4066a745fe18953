"""Fixed system prompts: what chooses them, and where."""

import inspect

import pytest
from golden_cases import MEDIA

from mossvl.data.records import as_example
from mossvl.errors import OptionError, PromptError
from mossvl.queries.query import Query

PICTURES = "You are a helpful AI assistant. Respond to the user's request based on the provided text and/or images."
VIDEO = (
    "You are a helpful AI assistant specializing in video analysis. Respond to the user's request based on the "
    "provided video content."
)
IMAGES, VIDEOS = {"images": ["a.png"]}, {"videos": ["a.mp4"]}
IN_PARTS = {"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}, "What?"]}]}
AS_URL = {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "a.mp4"}}, "What?"]}]}
CHOSEN = [
    ({}, None),
    (VIDEOS, None),
    ({"thinking_mode": "no_thinking"}, PICTURES),
    ({"thinking_mode": "default", **IMAGES}, PICTURES),
    ({"thinking_mode": "standard", **VIDEOS}, VIDEO),
    ({"thinking_mode": "no_thinking", **IMAGES, **VIDEOS}, VIDEO),
    ({"thinking_mode": "no_thinking", **IN_PARTS}, VIDEO),
    ({"thinking_mode": "no_thinking", **AS_URL}, VIDEO),
    *(({"system_prompt_type": f"{one}{between}{other}"}, PICTURES) for one, between, other in [
        ("text", "_", "image"), ("text", "-", "image"), ("image", "_", "text"), ("image", "-", "text"),
    ]),
    ({"system_prompt_type": "text"}, PICTURES),
    ({"system_prompt_type": "image", **VIDEOS}, PICTURES),
    ({"system_prompt_type": "video"}, VIDEO),
    ({"system_prompt_type": "video", "thinking_mode": "default", **IMAGES}, VIDEO),
    ({"use_default_system_prompt": True}, PICTURES),
    ({"use_default_system_prompt": True, **VIDEOS}, VIDEO),
    ({"use_default_system_prompt": True, "system_prompt_type": "text", **VIDEOS}, PICTURES),
    ({"use_default_system_prompt": False}, None),
    ({"use_default_system_prompt": False, "thinking_mode": "no_thinking", "system_prompt_type": "video"}, None),
    ({"thinking_mode": None, "system_prompt_type": None, "use_default_system_prompt": None}, None),
    ({"system_prompt": "", "thinking_mode": "no_thinking"}, PICTURES),
    ({"system_prompt": "Be brief.", "thinking_mode": "no_thinking", "use_default_system_prompt": True}, "Be brief."),
    ({"system_prompt": "Think.", "thinking_mode": "deep_thinking"}, "Think."),
    ({"system_prompt": "Be brief.", "use_default_system_prompt": False}, "Be brief."),
]  # fmt: skip


def asked(keys):
    return keys if "messages" in keys else {"prompt": "What?", **keys}


@pytest.mark.parametrize(("keys", "chosen"), CHOSEN)
def test_a_query_begins_with_the_system_prompt_that_its_keys_choose(keys, chosen):
    first, *rest = Query.from_dict(asked(keys)).messages([])
    if chosen is None:
        assert first["role"] == "user" and not rest
    else:
        assert first == {"role": "system", "content": chosen}
        assert [message["role"] for message in rest] == ["user"]


@pytest.mark.parametrize(("keys", "chosen"), CHOSEN)
def test_an_example_is_learned_with_the_system_prompt_that_a_query_gets(keys, chosen, tmp_path):
    answer = {"role": "assistant", "content": "That."}
    record = asked(keys)
    record = {**record, "messages": [*record["messages"], answer]} if "messages" in record else record
    first = as_example(record if "messages" in record else {**record, "response": "That."}, tmp_path)[0]
    assert (first["content"] if first["role"] == "system" else None) == chosen


def test_a_system_turn_is_a_system_prompt_that_is_given():
    messages = [{"role": "system", "content": "Think."}, {"role": "user", "content": "What?"}]
    for mode in ("no_thinking", "deep_thinking"):
        assert Query.from_dict({"messages": messages, "thinking_mode": mode}).messages([]) == messages
    answered = [*messages, {"role": "assistant", "content": "That."}]
    assert [turn["role"] for turn in as_example({"messages": answered, "thinking_mode": "default"}, MEDIA)] == [
        *("system", "user", "assistant")
    ]


@pytest.mark.parametrize("mode", ["deep_thinking", "thinking", "reasoning"])
@pytest.mark.parametrize("beside", [{}, {"use_default_system_prompt": False}, {"system_prompt": ""}, VIDEOS])
def test_thinking_is_refused_without_a_system_prompt(mode, beside):
    with pytest.raises(OptionError, match=f"{mode}' needs a system_prompt: the published one, .* could not be read"):
        Query.from_dict({"prompt": "What?", "thinking_mode": mode, **beside})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"thinking_mode": "no_thinkin"}, "thinking_mode='no_thinkin' is unknown; did you mean 'no_thinking'"),
        ({"thinking_mode": "deep-thinkng"}, "did you mean 'deep_thinking'"),
        ({"thinking_mode": "Standard"}, "did you mean 'standard'"),
        ({"thinking_mode": "fast"}, "thinking_mode='fast' is unknown; known: deep_thinking, default, no_thinking"),
        ({"thinking_mode": ""}, "thinking_mode='' is unknown"),
        ({"thinking_mode": True}, "thinking_mode=True is unknown"),
        ({"thinking_mode": ["default"]}, "thinking_mode=.* is unknown"),
        ({"system_prompt_type": "text_imag"}, "system_prompt_type='text_imag' is unknown; did you mean 'text_image'"),
        ({"system_prompt_type": "vidoe"}, "did you mean 'video'"),
        ({"system_prompt_type": {"a": 1}}, "system_prompt_type=.* is unknown"),
        ({"use_default_system_prompt": "yes"}, "use_default_system_prompt='yes' must be true or false"),
        ({"use_default_system_prompt": 1}, "use_default_system_prompt=1 must be true or false"),
        ({"thinking_mod": "default"}, "unknown key of a query 'thinking_mod'; did you mean 'thinking_mode'"),
        ({"system_prompt": "Be brief.", "thinking_mode": "fast"}, "thinking_mode='fast' is unknown"),
    ],
)
def test_what_is_unknown_is_refused_and_the_nearest_is_named(keys, words):
    with pytest.raises(OptionError, match=words.replace("(", r"\(")):
        Query.from_dict({"prompt": "What?", **keys})


def test_a_system_prompt_is_a_text():
    with pytest.raises(PromptError, match="system_prompt=3 must be a text"):
        Query.from_dict({"prompt": "What?", "system_prompt": 3})


def test_the_published_methods_take_them_by_name_alone(model):
    for method in (model.offline_image_generate, model.offline_video_generate):
        for name in ("thinking_mode", "system_prompt_type", "use_default_system_prompt"):
            parameter = inspect.signature(method).parameters[name]
            assert (parameter.kind, parameter.default) == (inspect.Parameter.KEYWORD_ONLY, None)
