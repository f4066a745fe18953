"""Data files → queries."""

import io
import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mossvl.data.records import Line, as_query, lines_of, parse_line
from mossvl.errors import DataError, MossVLError
from mossvl.queries.query import Query

FOLDER = Path("/data")


def text(words):
    return {"type": "text", "text": words}


def test_a_query_stays_what_it_is_but_for_its_paths():
    query = {
        "id": 7,
        "prompt": "What?",
        "images": ["a.png", "/b.png", "https://example.com/c.png", "file:///d.png"],
        "videos": [{"video_path": "e.mp4", "segments": [[1, 2]]}, [[0.0, "f0.png"], [1.0, "f1.png"]]],
        "media_kwargs": {"max_frames": 3},
    }
    assert as_query(query, FOLDER) == {
        "prompt": "What?",
        "images": ["/data/a.png", "/b.png", "https://example.com/c.png", "file:///d.png"],
        "videos": [
            {"video_path": "/data/e.mp4", "segments": [[1, 2]]},
            [[0.0, "/data/f0.png"], [1.0, "/data/f1.png"]],
        ],
        "media_kwargs": {"max_frames": 3},
    }


def test_media_inside_messages_are_found_too():
    content = [{"type": "image", "image": "a.png"}, {"video": "b.mp4"}, "What?"]
    (turn,) = as_query({"messages": [{"role": "user", "content": content}]}, FOLDER)["messages"]
    assert turn["content"] == [{"type": "image", "image": "/data/a.png"}, {"video": "/data/b.mp4"}, "What?"]


@pytest.mark.parametrize("names", [("from", "value", "human", "gpt"), ("role", "content", "user", "assistant")])
def test_placeholders_of_a_conversation_take_its_media_in_order(names):
    who, what, user, assistant = names
    record = {
        "conversations": [
            {who: "system", what: "Be brief."},
            {who: user, what: "<image>One <video> two"},
            {who: assistant, what: "Yes."},
            {who: user, what: "And <|image|>?"},
            {who: assistant, what: "No."},
        ],
        "images": ["a.png", "b.png"],
        "videos": "c.mp4",
    }
    assert as_query(record, FOLDER)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": "/data/a.png"},
                text("One "),
                {"type": "video", "video": "/data/c.mp4"},
                text(" two"),
            ],
        },
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": [text("And "), {"type": "image", "image": "/data/b.png"}, text("?")]},
    ]


def test_media_without_placeholders_stand_before_the_first_question():
    record = {"conversations": [{"from": "human", "value": "What?"}], "images": ["a.png"], "videos": ["b.mp4"]}
    (turn,) = as_query(record, FOLDER)["messages"]
    assert [part if isinstance(part, str) else part["type"] for part in turn["content"]] == ["image", "video", "What?"]


def test_media_without_placeholders_stand_before_the_parts_of_the_first_question():
    turns = [{"role": "system", "content": "x"}, {"role": "user", "content": [text("a"), text("b")]}]
    record = {"messages": [*turns, {"role": "user", "content": "c"}], "images": ["/a.png"], "videos": "/b.mp4"}
    assert as_query(record, FOLDER) == {
        "messages": [
            turns[0],
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": "/a.png"},
                    {"type": "video", "video": "/b.mp4"},
                    text("a"),
                    text("b"),
                ],
            },
            {"role": "user", "content": "c"},
        ]
    }
    assert record["messages"][1] == turns[1] and turns[1]["content"] == [text("a"), text("b")], (
        "nothing is changed in it"
    )


@pytest.mark.parametrize("name", ["image", "video"])
def test_one_medium_may_stand_under_its_kind(name):
    record = {"messages": [{"role": "user", "content": "What?"}], name: "a.bin"}
    (turn,) = as_query(record, FOLDER)["messages"]
    assert turn["content"] == [{"type": name, name: "/data/a.bin"}, "What?"]
    with pytest.raises(DataError, match=f"either {name} or {name}s"):
        as_query({**record, f"{name}s": ["b.bin"]}, FOLDER)


def test_placeholders_are_looked_for_in_texts_alone():
    turns = [{"role": "user", "content": [text("<image>")]}, {"role": "user", "content": "See <image>"}]
    messages = as_query({"messages": turns, "images": ["/a.png"]}, FOLDER)["messages"]
    assert messages == [turns[0], {"role": "user", "content": [text("See "), {"type": "image", "image": "/a.png"}]}]


def test_parts_without_a_medium_are_places_of_media():
    parts = [{"type": "video"}, text("or"), {"type": "image", "image": "/kept.png"}, {"type": "image"}]
    record = {"messages": [{"role": "user", "content": parts}], "images": "a.png", "videos": ["b.mp4"]}
    (turn,) = as_query(record, FOLDER)["messages"]
    filled = [{"type": "video", "video": "/data/b.mp4"}, *parts[1:3], {"type": "image", "image": "/data/a.png"}]
    assert turn["content"] == filled


def test_answers_at_the_end_are_dropped_and_no_others():
    roles = ["user", "assistant", "user", "assistant", "assistant"]
    turns = [{"role": role, "content": str(number)} for number, role in enumerate(roles)]
    assert as_query({"messages": turns}, FOLDER)["messages"] == turns[:3]
    assert as_query({"messages": [*turns, "no turn"]}, FOLDER)["messages"] == [*turns, "no turn"]


def test_images_of_frames_and_paths_inside_lists_are_found():
    query = {
        "videos": [{"image": "a.png", "video_path": "b.mp4", "note": "c"}, ["d.png", "FILE:///e.png"]],
        "images": 3,
    }
    assert as_query(query, FOLDER) == {
        "videos": [
            {"image": "/data/a.png", "video_path": "/data/b.mp4", "note": "c"},
            ["/data/d.png", "FILE:///e.png"],
        ],
        "images": 3,
    }


@pytest.mark.parametrize("name", ["path", "image", "video_path"])
def test_a_medium_that_is_an_object_is_found_by_any_of_its_names(name):
    """Tables of pictures have them so, with the content beside it or null."""
    query = as_query({"prompt": "What?", "images": [{name: "a.png", "bytes": None}, {name: "/b.png"}]}, FOLDER)
    assert query["images"] == [{name: "/data/a.png"}, {name: "/b.png"}]


def test_segments_may_have_placeholders_of_their_own():
    video = {"video_path": "/a.mp4", "segments": [[0, 1], [2, 3]]}
    record = {"conversations": [{"from": "human", "value": "<video> and <video>"}], "videos": [video]}
    (turn,) = as_query(record, FOLDER)["messages"]
    seen = [part["video"]["segments"] for part in turn["content"] if part["type"] == "video"]
    assert seen == [[[0, 1]], [[2, 3]]]
    record = {"conversations": [{"from": "human", "value": "<video>"}], "videos": [video]}
    assert as_query(record, FOLDER)["messages"][0]["content"] == [{"type": "video", "video": video}]


def test_prompt_and_response_become_a_query_without_the_response():
    assert as_query({"prompt": "What?", "response": "That.", "images": ["/a.png"]}, FOLDER) == {
        "prompt": "What?",
        "images": ["/a.png"],
    }
    query = as_query({"prompt": "See <image>?", "response": "That.", "images": ["/a.png"]}, FOLDER)
    assert query == {
        "messages": [{"role": "user", "content": [text("See "), {"type": "image", "image": "/a.png"}, text("?")]}]
    }


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"conversations": []}, "not empty"),
        ({"conversations": [{"from": "human"}]}, 'neither "value" nor "content"'),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "robot"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "no question"),
        ({"conversations": [{"from": "human", "value": "<image><image>"}], "images": ["a"]}, "2 image .* 1 images"),
        ({"conversations": [{"from": "human", "value": "<image>"}], "images": ["a"], "videos": ["b"]}, "0 video"),
        ({"conversations": [{"from": "human", "value": "x"}], "prompt": "y"}, "neither messages nor a prompt"),
        ({"conversations": [{"from": "human", "value": "x"}], "messages": []}, "neither messages nor a prompt"),
        ({"conversations": [{"from": "human", "value": "x"}, "y"]}, "turn 2 must be an object, but is 'y'"),
        (
            {"conversations": [{"from": ["human"], "value": "x"}]},
            r"turn 1 is from \['human'\]; known: human",
        ),
        ({"messages": [{"role": "system", "content": "x"}], "images": ["a"]}, "no question that they could belong to"),
    ],
)
def test_a_malformed_record_is_an_error_that_says_why(record, message):
    with pytest.raises(DataError, match=message):
        as_query(record, FOLDER)


def test_lines_are_counted_as_editors_do_and_indexed_without_empty_ones():
    lines = list(lines_of(io.BytesIO(b'\xef\xbb\xbf{"a": 1}\n\n  \n{"b": 2}')))
    assert [(line.index, line.number, line.text) for line in lines] == [(0, 1, b'{"a": 1}'), (1, 4, b'{"b": 2}')]


def test_a_line_is_its_record():
    assert parse_line(Line(0, 1, '{"prompt": "Wo?", "id": [1, "é"]}'.encode())) == {"prompt": "Wo?", "id": [1, "é"]}


def test_a_long_line_is_read_to_its_end_but_not_kept(monkeypatch):
    monkeypatch.setattr("mossvl.data.records.LONGEST", 8)
    lines = list(lines_of(io.BytesIO(b"x" * 30 + b'\n{"a": 1}')))
    assert [(line.number, line.text, line.start) for line in lines] == [(1, b"x" * 8, 0), (2, b'{"a": 1}', 31)]


def test_turns_may_stand_in_columns():
    turns = {"from": ["human", "gpt", "human"], "value": ["One?", "Two.", "And?"]}
    assert as_query({"conversations": turns}, FOLDER)["messages"] == [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "And?"},
    ]
    with pytest.raises(DataError, match="must be a list of turns"):
        as_query({"conversations": {"from": ["human"], "value": []}}, FOLDER)


def test_lines_tell_where_their_texts_are_and_what_is_in_them():
    file = b'\xef\xbb\xbf  {"a": 1} \r\n\n\t{"a": 1}\n\xef\xbb\xbf{}\n{"b": 2}'
    lines = list(lines_of(io.BytesIO(file)))
    assert [(line.index, line.number) for line in lines] == [(0, 1), (1, 3), (2, 4), (3, 5)]
    assert [file[line.start : line.start + line.length] for line in lines] == [line.text for line in lines]
    assert [line.start for line in lines] == [5, 18, 27, 33]
    assert [line.text for line in lines[1:3]] == [b'{"a": 1}', b"\xef\xbb\xbf{}"], (
        "the mark is one at the beginning alone"
    )
    assert lines[0].digest == lines[1].digest != lines[3].digest
    assert lines[3].digest == "4b1c93c386ffa698", "answer files of earlier versions hold such digests"
    assert Line(0, 1, b"x").start == 0


@pytest.mark.parametrize("line", [b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000])
def test_a_line_that_is_no_record_is_an_error_that_names_it(line):
    with pytest.raises(DataError, match="line 5"):
        parse_line(Line(0, 5, line))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["<image>", "<|video|>", "user"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["from", "role", "value", "content", "type", "image", "video", "text", "segments"]), inner
        )
    ),
    max_leaves=12,
)
KEYS = ["prompt", "response", "messages", "conversations", "images", "videos", "system_prompt", "media_kwargs", "id"]
KEYS += ["thinking_mode", "system_prompt_type", "use_default_system_prompt"]


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_any_record_is_a_query_or_a_clear_error(record):
    """Whatever comes in, no other kind of exception comes out."""
    line = Line(0, 1, json.dumps(record).encode())
    with suppress(MossVLError):
        Query.from_dict(as_query(parse_line(line), FOLDER))
