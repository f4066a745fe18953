"""Data files → records, one after the other."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mossvl.data import files
from mossvl.data.files import items_of, records_of
from mossvl.errors import DataError

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def values(path):
    return [record.value for record in records_of(path)]


def test_lines_and_lists_hold_the_same_records(write):
    records = [{"prompt": "a"}, {"prompt": "ü\n[", "n": [1, {"b": None}]}]
    lines = "\n\n".join(json.dumps(record) for record in records)
    assert values(write("a.jsonl", lines)) == records
    assert values(write("a.json", json.dumps(records, indent=2))) == records
    assert values(write("lines.json", lines)) == records
    assert values(write("marked.json", b"\xef\xbb\xbf" + json.dumps(records).encode())) == records


def test_a_folder_is_read_by_name(write, tmp_path):
    write("shards/b.jsonl", '{"n": 2}\n{"n": 3}')
    write("shards/a.json", '[{"n": 1}]')
    write("shards/notes.txt", "not data")
    assert [(record.file.name, record.value["n"]) for record in records_of(tmp_path / "shards")] == [
        ("a.json", 1),
        ("b.jsonl", 2),
        ("b.jsonl", 3),
    ]


def test_a_bad_line_costs_itself_and_says_where_it_is(write):
    records = list(records_of(write("a.jsonl", '{"n": 1}\n\nnonsense\n[3]\n{"n": 4}')))
    assert [record.place for record in records] == ["line 1", "line 3", "line 4", "line 5"]
    assert [isinstance(record.value, DataError) for record in records] == [False, True, True, False]
    assert records[1].where.endswith("a.jsonl: line 3")


@pytest.mark.parametrize(
    ("text", "good", "words"),
    [
        ('[{"n": 1}, 5, {"n": 2}]', 2, "record 2 is int 5"),
        ('[{"n": 1}, {"n": ', 1, "cut off"),
        ('[{"n": 1}', 1, "the end of the file"),
        ('[{"n": 1} ', 1, "the end of the file"),
        ('[{"n": 1} {"n": 2}]', 1, "expected a comma"),
        ('[{"n": 1}, oops]', 1, "not JSON"),
        ('[{"n": 1},]', 1, "not JSON"),
    ],
)
def test_a_broken_list_gives_what_comes_before(text, good, words, write):
    found = values(write("a.json", text))
    assert sum(isinstance(value, dict) for value in found) == good
    assert any(isinstance(value, DataError) and words in str(value) for value in found)


@pytest.mark.parametrize("text", ["", " \n", "[]", " [ ] "])
def test_an_empty_file_has_no_records(text, write):
    assert values(write("a.json", text)) == []


@pytest.mark.parametrize("medium", ["clip.mp4", "sign.png"])
def test_a_file_that_is_no_text_is_one_error(medium):
    (found,) = values(EXAMPLES / medium)
    assert str(found) == "the file is no text; expected JSON lines, a JSON list, Parquet or Arrow"


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        list(records_of(tmp_path / "no.jsonl"))
    with pytest.raises(DataError, match="holds no file"):
        list(records_of(tmp_path))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.lists(JSON), st.integers(1, 7), st.sampled_from([None, 1]))
def test_items_are_found_wherever_the_text_is_cut(items, chunk, indent):
    text = io.StringIO(json.dumps(items, indent=indent)[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK", chunk)
        assert [item.value for item in items_of(text)] == items
