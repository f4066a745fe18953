"""Rows of Parquet and Arrow files are records as lines are, and are read by number."""

import json
import pickle
import sys

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from mossvl.data import tables
from mossvl.data.files import records_of, shards_of
from mossvl.data.index import RecordIndex
from mossvl.data.records import as_example, unread_keys
from mossvl.errors import DataError

ROWS = [{"id": number, "query": f"What is {number}?", "response": f"It is {number}."} for number in range(7)]


@pytest.fixture
def arrow():
    return pytest.importorskip("pyarrow", reason="no pyarrow, which the extra 'tables' installs")


@pytest.fixture
def write(arrow, tmp_path):
    """Writes rows as a table; Parquet in groups of 3 rows, Arrow in batches of 2."""

    def write(name, rows=ROWS, how="parquet"):
        table, path = arrow.Table.from_pylist(rows), tmp_path / name
        if how == "parquet":
            from pyarrow import parquet

            parquet.write_table(table, path, row_group_size=3)
            return path
        new = arrow.ipc.new_stream if how == "stream" else arrow.ipc.new_file
        with open(path, "wb") as file, new(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
        return path

    return write


WAYS = pytest.mark.parametrize("how", ["parquet", "file", "stream"])


@WAYS
def test_rows_are_read_in_order_and_by_number(how, write):
    path = write("rows.bin", how=how)
    expected = [(f"{path}: row {number + 1}", row) for number, row in enumerate(ROWS)]
    assert [(record.where, record.value) for record in records_of(path)] == expected
    index = pickle.loads(pickle.dumps(RecordIndex.build(path)))
    assert [(index.read(number).where, index.read(number).value) for number in (6, 0, 3, 2, 5, 1, 4)] == [
        expected[number] for number in (6, 0, 3, 2, 5, 1, 4)
    ]


@WAYS
def test_pictures_in_columns_are_examples(how, write, tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    content = (tmp_path / "red.png").read_bytes()
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": "Red."}]}]
    rows = [
        {"images": [{"bytes": content, "path": "x.png"}], "messages": turns},
        {"images": [{"bytes": None, "path": "red.png"}], "messages": turns},
    ]
    for record in records_of(write("rows.bin", rows, how)):
        source = as_example(record.value, tmp_path)[0]["content"][0]["image"]
        assert source in ({"bytes": content, "path": str(tmp_path / "x.png")}, {"path": str(tmp_path / "red.png")})


def test_tables_lie_beside_lines_in_a_folder(write, tmp_path):
    write("b.parquet")
    write("c.arrow", how="stream")
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]))
    (tmp_path / "dataset_info.json").write_text("{}")
    index = RecordIndex.build(tmp_path)
    assert [index.read(number).value["id"] for number in range(len(index))] == [0, *range(7), *range(7)]
    assert [index.file_of(number).name for number in (0, 1, 7, 8)] == ["a.jsonl", *["b.parquet"] * 2, "c.arrow"]


def test_the_folder_of_a_saved_dataset_is_read_in_its_order(write, tmp_path):
    names = ["data-1.arrow", "data-0.arrow"]
    for number, name in enumerate(names):
        write(name, ROWS[number : number + 1], "stream")
    write("cache-0.arrow", how="stream")
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    assert [record.value["id"] for record in records_of(tmp_path)] == [0, 1]
    (tmp_path / names[0]).unlink()
    with pytest.raises(DataError, match=r"state.json names data-1.arrow, but the folder does not hold it"):
        shards_of(tmp_path)


def test_a_dataset_of_several_splits_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(DataError, match="with the splits train; give the folder of one of them"):
        shards_of(tmp_path)


@WAYS
def test_a_damaged_table_is_named(how, write):
    path = write("rows.bin", how=how)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"rows.bin cannot be read as (Parquet|Arrow) .* is it complete\?"):
        RecordIndex.build(path)


@WAYS
def test_a_value_that_python_cannot_hold_is_an_error_of_its_row(how, write, arrow):
    """Years end at 9999; without pandas, there are no nanoseconds either."""
    times = [arrow.scalar(seconds, arrow.timestamp("s")) for seconds in (0, 10**15, 1)]
    path = write("rows.bin", [{**row, "system": time} for row, time in zip(ROWS[:3], times, strict=True)], how)
    first, second, third = records_of(path)
    assert [first.value["id"], third.value["id"]] == [0, 2]
    with pytest.raises(DataError, match=r"row 2: the column 'system' \(timestamp\[m?s\]\) cannot be read"):
        raise second.value


@WAYS
def test_what_no_form_reads_is_not_converted(how, write, arrow, tmp_path):
    late = [arrow.scalar(10**15, arrow.timestamp("s")), None]
    path = write("rows.bin", [{**row, "asked": time} for row, time in zip(ROWS[:2], late, strict=True)], how)
    index = RecordIndex.build(path)
    first, second = index.read(0), index.read(1)
    assert (unread_keys(first.value), unread_keys(second.value)) == (["id", "asked"], ["id"])
    assert [turn["content"] for turn in as_example(first.value, tmp_path)] == ["What is 0?", "It is 0."]


@WAYS
def test_columns_that_another_file_names_are_converted(how, write, tmp_path):
    entry = {"file_name": "rows.bin", "columns": {"prompt": "ask", "response": "say"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"rows": entry}))
    path = write("rows.bin", [{"ask": "Who?", "say": "I.", "instruction_id": 3}], how)
    assert next(records_of(path)).value == {"instruction": "Who?", "output": "I.", "instruction_id": ...}
    assert RecordIndex.build(path).read(0).value == next(records_of(path)).value


@WAYS
def test_a_table_that_changed_is_told(how, write):
    path = write("rows.bin", how=how)
    index = RecordIndex.build(path)
    index.read(0)
    write("rows.bin", ROWS[:2], how)
    with pytest.raises(DataError, match="has changed since it was indexed"):
        index.read(0)


def test_a_row_group_that_would_fill_the_memory_is_refused(write, monkeypatch):
    path = write("rows.parquet")
    monkeypatch.setattr(tables, "LARGEST_GROUP", 10)
    with pytest.raises(DataError, match=r"a row group has [\d,]+ bytes.*row_group_size=100"):
        RecordIndex.build(path)


@pytest.mark.parametrize("head", tables.MAGIC)
def test_a_table_needs_pyarrow(head, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "rows.bin").write_bytes(head + b"rest")
    with pytest.raises(DataError, match=r"rows.bin is a table, which needs pyarrow: pip install '.\[tables\]'"):
        RecordIndex.build(tmp_path / "rows.bin")


class Values(Dataset):
    def __init__(self, index):
        self.index = index

    def __len__(self):
        return len(self.index)

    def __getitem__(self, number):
        return self.index.read(number).value["id"]


@WAYS
def test_forked_workers_read_what_the_parent_has_read(how, write):
    index = RecordIndex.build(write("rows.bin", how=how))
    index.read(4)
    loader = DataLoader(Values(index), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert [int(torch.as_tensor(one)) for one in loader] == list(range(7))
