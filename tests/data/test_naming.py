"""Files that LLaMA-Factory's dataset_info.json describes are read by its names."""

import json
import pickle

import pytest

from mossvl.data.files import records_of
from mossvl.data.index import RecordIndex
from mossvl.data.records import as_example
from mossvl.errors import DataError

SHARE = {
    "formatting": "sharegpt",
    "columns": {"messages": "talk", "images": "pictures", "system": "told"},
    "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "asker", "assistant_tag": "bot"},
}
TALK = {
    "talk": [{"who": "asker", "says": "<image>What?"}, {"who": "bot", "says": "A cat."}],
    "pictures": ["a.png"],
    "told": "Be brief.",
}
ALPACA = {"columns": {"prompt": "task", "query": "about", "response": "result", "history": "before"}}
TASK = {"task": "Sum up.", "about": "A long text.", "result": "Short.", "before": [["Hello", "Hi."]]}


@pytest.fixture
def write(tmp_path):
    def write(entry, *records, info=None):
        path = tmp_path / "data.json"
        path.write_text(json.dumps(records))
        listed = {"other": {"file_name": "else.json"}, "hub": {"hf_hub_url": "x/y"}, "mine": {"file_name": path.name}}
        listed["mine"] |= entry
        (tmp_path / "dataset_info.json").write_text(json.dumps(listed) if info is None else info)
        return path

    return write


def read(path):
    index = pickle.loads(pickle.dumps(RecordIndex.build(path)))
    found = [index.read(number) for number in range(len(index))]
    assert found == list(records_of(path)) or any(isinstance(one.value, DataError) for one in found)
    return [one.value for one in found]


def test_turns_have_the_names_of_the_tags(write, tmp_path):
    [record] = read(write(SHARE, TALK))
    system, question, answer = as_example(record, tmp_path)
    assert (system["content"], answer) == ("Be brief.", {"role": "assistant", "content": "A cat."})
    assert question["content"][0] == {"type": "image", "image": str(tmp_path / "a.png")}


def test_columns_have_the_names_that_are_given(write, tmp_path):
    turns = as_example(read(write(ALPACA, TASK))[0], tmp_path)
    assert [turn["content"] for turn in turns] == ["Hello", "Hi.", "Sum up.\nA long text.", "Short."]


def test_calls_of_tools_are_told_by_their_tag(write, tmp_path):
    tags = {**SHARE["tags"], "function_tag": "act"}
    record = {"talk": [*TALK["talk"], {"who": "act", "says": "{}"}]}
    with pytest.raises(DataError, match="turn 3 has the role 'function_call'"):
        as_example(read(write({**SHARE, "tags": tags}, record))[0], tmp_path)


@pytest.mark.parametrize("info", ["{", "[]", '{"features": {}, "splits": {"train": {"num_examples": 1}}}', "{}"])
def test_another_file_of_that_name_changes_nothing(info, write):
    assert read(write({}, TALK, info=info)) == [TALK]


def test_a_bad_record_stays_its_error(write):
    good, bad = read(write(SHARE, TALK, 5))
    assert "conversations" in good and "expected an object" in str(bad)


@pytest.mark.parametrize("entry", [{"columns": ["task"]}, {"tags": {"role_tag": 3}}])
def test_a_malformed_entry_is_told(entry, write):
    with pytest.raises(
        DataError, match=r"dataset_info.json: (columns|tags)=.* of data.json must be an object of texts"
    ):
        read(write(entry, TALK))
