"""An index of data files reads each record as one who reads all of them in order."""

import json
import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mossvl.data import files
from mossvl.data.files import records_of
from mossvl.data.index import RecordIndex
from mossvl.errors import DataError

BOM = b"\xef\xbb\xbf"
VALUES = st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=4)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=3)
SPACE = st.sampled_from(["", " ", "\r\n", "\n\t\n"])


@st.composite
def written(draw, value):
    return json.dumps(draw(value), ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")


@st.composite
def lines(draw):
    bad = st.sampled_from([b"", b"  ", b"nonsense \xc3\xbc", b"[1]", b"{", b'{"a": "\xff"}', BOM + b"{}", b"\x0b{}"])
    return draw(st.sampled_from([b"\n", b"\r\n"])).join(draw(st.lists(written(OBJECTS) | bad, max_size=6)))


@st.composite
def lists(draw):
    items = draw(st.lists(written(OBJECTS | VALUES) | st.just(b'{"a": "\xff\xed\xa0\x80"}'), max_size=6))
    before, between, after = (draw(SPACE).encode() for _ in range(3))
    text = before + b"[" + (between + b"," + between).join(items) + after + b"]"
    broken = draw(st.none() | st.integers(0, len(text)))
    return text[:broken] + draw(st.sampled_from([b"", b"", "ü".encode(), b", {}"]))


CONTENTS = st.builds(lambda mark, text: mark + text, st.sampled_from([b"", b"", BOM, BOM + BOM]), lines() | lists())


def told(record):
    return record.where, str(record.value) if isinstance(record.value, DataError) else record.value


def check(path):
    index = pickle.loads(pickle.dumps(RecordIndex.build(path)))
    expected = [told(record) for record in records_of(path)]
    assert [told(index.read(number)) for number in range(len(index))] == expected
    assert all(told(index.read(number)) == expected[number] for number in reversed(range(len(index))))


@given(CONTENTS, st.sampled_from([3, files.CHUNK]))
def test_a_file(tmp_path_factory, content, chunk):
    path = tmp_path_factory.mktemp("data") / "a.json"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK", chunk)
        check(path)


@given(st.lists(CONTENTS, min_size=1, max_size=4))
def test_a_folder(tmp_path_factory, contents):
    folder = tmp_path_factory.mktemp("data")
    for number, content in enumerate(contents):
        (folder / f"{number}.{'json' if number % 2 else 'jsonl'}").write_bytes(content)
    check(folder)


def test_places_are_those_of_an_editor(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(BOM + '{"ü": 1}\r\n\r\nnonsense\r\n{"b": 2}'.encode())
    (tmp_path / "b.json").write_bytes('[{"ü": "é"}, 5, {"b": 2} oops'.encode())
    index = RecordIndex.build(tmp_path)
    records = [index.read(number) for number in range(len(index))]
    assert [f"{record.file.name} {record.place}" for record in records] == [
        *("a.jsonl line 1", "a.jsonl line 3", "a.jsonl line 4"),
        *("b.json record 1", "b.json record 2", "b.json record 3", "b.json record 4"),
    ]
    assert [record.value for record in records if isinstance(record.value, dict)] == [
        {"ü": 1},
        {"b": 2},
        {"ü": "é"},
        {"b": 2},
    ]
    assert "expected a comma" in str(records[-1].value)


@pytest.mark.parametrize("number", [-1, 1])
def test_there_are_no_other_records(number, tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(IndexError, match="no record"):
        RecordIndex.build(tmp_path).read(number)


def test_an_empty_file_has_none(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    assert len(RecordIndex.build(tmp_path / "a.json")) == 0


def test_a_file_that_changed_is_said(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n')
    index = RecordIndex.build(path)
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000_000))
    with pytest.raises(DataError, match=r"a\.jsonl has changed since"):
        index.read(0)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read any more"):
        index.read(0)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        RecordIndex.build(tmp_path / "no.jsonl")
