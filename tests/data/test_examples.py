"""Fine-tuning records → messages."""

import copy
from pathlib import Path

import pytest

from mossvl.data.records import as_example, as_query, unread_keys
from mossvl.errors import DataError
from mossvl.processing.messages import check_messages
from mossvl.processing.system_prompt import PICTURES, VIDEO

FOLDER = Path("/data")
IMAGE, CLIP = {"type": "image", "image": "/data/a.png"}, {"type": "video", "video": "/data/b.mp4"}


def text(words):
    return {"type": "text", "text": words}


def user(*parts):
    return {"role": "user", "content": list(parts)}


ANSWER = {"role": "assistant", "content": "A cat."}


@pytest.mark.parametrize(
    ("record", "question"),
    [
        ({"prompt": "What?", "response": "A cat."}, {"role": "user", "content": "What?"}),
        ({"prompt": "What?", "response": "A cat.", "images": "a.png"}, user(IMAGE, "What?")),
        (
            {
                "prompt": "<|video|>Here or <|image|>there?",
                "response": "A cat.",
                "images": ["a.png"],
                "videos": ["b.mp4"],
            },
            user(CLIP, text("Here or "), IMAGE, text("there?")),
        ),
        (
            {
                "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}],
                "images": ["a.png"],
            },
            user(IMAGE, text("\nWhat?")),
        ),
        ({"messages": [user({"type": "image", "image": "a.png"}, text("What?")), ANSWER]}, user(IMAGE, text("What?"))),
    ],
    ids=["text", "before the text", "placeholders", "conversations", "parts"],
)
def test_media_stand_where_the_record_has_them(record, question):
    assert as_example(record, FOLDER) == [question, ANSWER]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "a.png"},
        {"type": "video", "video": "b.mp4"},
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "text", "text": "What?"},
    ],
)
def test_a_content_that_is_one_part_is_read_as_a_list_of_it(part):
    alone, listed = ({"messages": [{"role": "user", "content": one}, ANSWER]} for one in (part, [part]))
    for beside in ({}, {"images": ["/c.png"]}, {"use_default_system_prompt": True}):
        assert as_example({**alone, **beside}, FOLDER) == as_example({**listed, **beside}, FOLDER)
        assert as_query({**alone, **beside}, FOLDER) == as_query({**listed, **beside}, FOLDER)


def test_a_content_that_is_one_part_is_a_place_of_a_medium():
    record = {"messages": [{"role": "user", "content": {"type": "image"}}, ANSWER], "images": ["a.png"]}
    assert as_example(record, FOLDER) == [user(IMAGE), ANSWER]


def test_segments_of_a_video_have_places_of_their_own():
    record = {
        "prompt": "First <|video|> then <|video|>",
        "response": "A cat.",
        "videos": [{"video_path": "b.mp4", "segments": [[0, 1], [4, 5]]}],
    }
    parts = as_example(record, FOLDER)[0]["content"]
    assert [part["video"] for part in parts if part["type"] == "video"] == [
        {"video_path": "/data/b.mp4", "segments": [[0, 1]]},
        {"video_path": "/data/b.mp4", "segments": [[4, 5]]},
    ]


def test_all_turns_are_kept():
    turns = [("system", "Be brief."), ("user", "One?"), ("assistant", "Two."), ("user", "And?"), ("model", "Three.")]
    messages = as_example({"conversations": [{"from": role, "value": words} for role, words in turns]}, FOLDER)
    assert [turn["role"] for turn in messages] == ["system", "user", "assistant", "user", "assistant"]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, "but: none in an empty object"),
        ({"question": "Why?"}, "but: none in question"),
        ({"prompt": "Why?", "messages": [ANSWER]}, "but: messages and prompt"),
        ({"prompt": "Why?"}, "needs a response"),
        ({"prompt": "Why?", "response": 4}, "must both be texts"),
        ({"messages": [{"role": "user", "content": "Why?"}]}, "no turn is the assistant's"),
        ({"messages": []}, "a list of turns, and not empty"),
        ({"conversations": [{"from": "dog", "value": "Woof"}]}, "turn 1 is from 'dog'"),
        ({"conversation": [ANSWER]}, "'conversation'; did you mean 'conversations'"),
        ({"messages": [ANSWER], "image": "a.png"}, "no question that they could belong to"),
        ({"messages": [ANSWER], "system": 3}, "system=3 must be a text"),
        ({"messages": [ANSWER], "system": "a", "system_prompt": "b"}, "either system or system_prompt"),
        ({"messages": [ANSWER], "media_kwargs": {"max_pixels": 5}}, "media_kwargs are for queries"),
        ({"messages": [ANSWER], "system_prompt": 3}, "must be a text"),
        ({"messages": [ANSWER], "thinking_mode": "reasoning"}, "needs a system_prompt"),
        ({"messages": [ANSWER], "thinking_mode": "no_thinkin"}, "did you mean 'no_thinking'"),
        ({"messages": [ANSWER], "Thinking_Mode": "default"}, "did you mean 'thinking_mode'"),
        ({"messages": [{"role": "system", "content": "a"}, ANSWER], "system_prompt": "b"}, "has both"),
        ({"messages": [ANSWER], "response": "A dog."}, "remove 'response'"),
        ({"messages": [ANSWER], "Images": ["a.png"]}, "'Images'; did you mean 'images'"),
        ({"messages": [ANSWER], "image_path": "a.png"}, "'image_path'; did you mean 'images'"),
        ({"prompt": "<|image|>?", "response": "x", "images": ["a.png", "b.png"]}, "1 image placeholders"),
    ],
)
def test_what_is_no_example_is_refused_in_words(record, words):
    with pytest.raises(DataError, match=words):
        as_example(record, FOLDER)


def test_an_object_around_a_list_is_told_from_one_that_has_other_keys():
    with pytest.raises(DataError, match="around a list; put the objects under 'rows'"):
        as_example({"version": 1, "rows": [{"prompt": "a"}, {"prompt": "b"}]}, FOLDER)
    for rows in ([], {}, "abc", 3, ["abc"], [{"prompt": "a"}, "abc"], ["abc", {"prompt": "a"}], {"prompt": "a"}):
        with pytest.raises(DataError, match=r"but: none in version, rows$"):
            as_example({"version": 1, "rows": rows}, FOLDER)


@pytest.mark.parametrize(
    ("meant", "given"),
    [
        ("conversations", ["conversation", "Conversations"]),
        ("messages", ["message", "MESSAGES"]),
        ("images", ["image_path", "image_paths", "img", "imgs", "picture", "pictures", "IMG"]),
        ("videos", ["video_path", "video_paths", "clip", "clips", "Videos"]),
        ("system_prompt", ["System_Prompt"]),
        ("system", ["System"]),
        ("prompt", ["Prompt"]),
        ("response", ["Response"]),
    ],
)
def test_keys_that_mean_another_are_refused(meant, given):
    for name in given:
        with pytest.raises(DataError, match=f"unknown key '{name}'; did you mean '{meant}'"):
            as_example({"prompt": "What?", "response": "That.", name: "x"}, FOLDER)


def test_every_key_that_is_read_is_known():
    names = ["conversations", "messages", "prompt", "response", "images", "videos", "image", "video", "system_prompt"]
    names += ["thinking_mode", "system_prompt_type", "use_default_system_prompt"]
    assert unread_keys(dict.fromkeys([*names, "id"], "x")) == ["id"]


@pytest.mark.parametrize(
    ("media", "content", "kind"),
    [
        ({}, "What?", "image"),
        ({"images": ["a.png"]}, "What?", "image"),
        ({"videos": ["b.mp4"]}, "What?", "video"),
        ({}, [text("What?"), {"type": "image", "image": "a.png"}], "image"),
        ({}, [text("What?"), {"type": "video", "video": "b.mp4"}], "video"),
        ({}, [text("What?"), {"type": "video_url", "video_url": {"url": "b.mp4"}}], "video"),
    ],
)
def test_the_default_system_prompt_is_the_one_for_what_is_seen(media, content, kind):
    record = {"messages": [{"role": "user", "content": content}, ANSWER], "use_default_system_prompt": True, **media}
    system, *_ = as_example(record, FOLDER)
    assert system == {"role": "system", "content": VIDEO if kind == "video" else PICTURES}


def test_a_system_prompt_comes_first_and_other_keys_are_not_read():
    others = {"id": 7, "image_id": "x", "conversation_id": 3, "prompt_id": 4, "n_images": 0, "old_response": "A dog."}
    record = {"prompt": "What?", "response": "A cat.", "system_prompt": "Be brief.", **others}
    system, *rest = as_example(record, FOLDER)
    assert system == {"role": "system", "content": "Be brief."}
    assert rest == [{"role": "user", "content": "What?"}, ANSWER]
    assert unread_keys(record) == list(others)


def test_keys_that_hold_nothing_are_as_if_they_were_not_there():
    empty = {"image": None, "system": "", "video": [], "media_kwargs": {}, "system_prompt": ""}
    record = {"messages": [{"role": "system", "content": "Be brief."}, ANSWER], **empty, "response": None}
    assert as_example(record, FOLDER) == record["messages"]
    assert unread_keys(record) == []


@pytest.mark.parametrize("beside", [{}, {"images": []}])
def test_a_placeholder_needs_a_medium(beside, tmp_path):
    with pytest.raises(DataError, match=r"placeholder <image>, but there are no images"):
        as_example({"prompt": "<image>What?", "response": "That.", **beside}, tmp_path)


QUESTION = {"role": "user", "content": "What is it?"}
SHOWN = [{"type": "image", "image": str(FOLDER / "a.png")}, {"type": "text", "text": "What is it?"}]


def turns_of(record):
    return as_example(copy.deepcopy(record), FOLDER)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [QUESTION, ANSWER], "image": "a.png"},
        {"messages": [QUESTION, ANSWER], "images": ["a.png"], "videos": None},
        {"messages": [{"role": "user", "content": "<image>What is it?"}, ANSWER], "image": ["a.png"]},
        {
            "conversations": [{"from": "human", "value": "<image>What is it?"}, {"from": "gpt", "value": "A dog."}],
            "image": "a.png",
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": None, "text": None}, SHOWN[1]]},
                ANSWER,
            ],
            "images": ["a.png"],
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": "a.png", "text": None}, SHOWN[1]]},
                ANSWER,
            ]
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, SHOWN[1]]},
                ANSWER,
            ]
        },
        {"messages": [{"role": "user", "content": [{"type": "image", "path": "a.png"}, SHOWN[1]]}, ANSWER]},
    ],
)
def test_a_picture_is_read_wherever_others_write_it(record):
    assert check_messages(turns_of(record))[0]["content"] == SHOWN


def test_a_placeholder_in_an_answer_is_text():
    answer = {"role": "assistant", "content": "The tag <image> stands for a picture."}
    assert turns_of({"messages": [QUESTION, answer], "image": "a.png"})[1] == answer
