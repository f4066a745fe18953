"""Examples from data files: which record each is, what is bad, and what is cut."""

import json

import pytest
import torch
from golden_cases import MEDIA
from torch.utils.data import DataLoader

from mossvl.data.index import RecordIndex
from mossvl.errors import DataError, OptionError
from mossvl.options import MediaOptions
from mossvl.processing.labels import IGNORED_LABEL
from mossvl.training import dataset
from mossvl.training.dataset import FileExamples

GOOD = {"prompt": "What is it?", "response": "A cat."}
PICTURE = {"prompt": "<image>What is it?", "response": "A square, red.", "images": ["shapes.png"]}
BAD = {
    "no answer": {"messages": [{"role": "user", "content": "Why?"}]},
    "no file": {"prompt": "What?", "response": "A cat.", "images": ["missing.png"]},
    "no text": {"messages": [{"role": "user", "content": 5}, {"role": "assistant", "content": "A cat."}]},
    "unknown key": {
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": "shapes.png", "fps": 2}]},
            {"role": "assistant", "content": "A cat."},
        ]
    },
    "no JSON": None,
}


@pytest.fixture
def examples(tmp_path, processor):
    def examples(*records, **options):
        lines = [json.dumps(record) if record is not None else "nonsense" for record in records]
        (tmp_path / "a.jsonl").write_text("\n".join(lines))
        return FileExamples(processor, RecordIndex.build(tmp_path), MEDIA, MediaOptions(), **options)

    return examples


def learned(example):
    return int((example.labels != IGNORED_LABEL).sum())


def test_each_record_is_an_example(examples):
    both = examples(GOOD, PICTURE)
    assert [one.grids for one in both] == [[], [(1, 10, 12)]]
    assert both[1].pixels.shape == (120, 768)
    assert both[0].skipped == () and both[0].cut == 0
    with pytest.raises(IndexError, match="no example 2"):
        both[2]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_record_stops_or_is_replaced_by_the_next(bad, examples):
    some = examples(GOOD, PICTURE, bad)
    (line,) = some[2].skipped
    assert torch.equal(some[2].input_ids, some[0].input_ids)
    assert "a.jsonl: line 3: " in line and line.count("line 3") == 1 and "\n" not in line
    assert some[1].skipped == ()
    with pytest.raises(DataError) as raised:
        examples(GOOD, PICTURE, bad, bad="stop")[2]
    assert str(raised.value) == line


def test_many_bad_records_in_a_row_end_it(examples, monkeypatch):
    with pytest.raises(DataError, match=r"all 3 records are bad.*Last: .*a\.jsonl: line 1: "):
        examples(*[BAD["no answer"]] * 3)[1]
    monkeypatch.setattr(dataset, "TRIES", 2)
    some = examples(GOOD, *[BAD["no answer"]] * 3)
    with pytest.raises(DataError, match=r"2 records in a row are bad.*Last: .*a\.jsonl: line 3: "):
        some[1]


def test_a_long_example_is_cut_at_its_end(examples):
    (whole,) = examples(PICTURE)
    tokens = len(whole.input_ids)
    (cut,) = examples(PICTURE, max_length=tokens - 3)
    assert cut.cut == 3
    assert torch.equal(cut.input_ids, whole.input_ids[:-3]) and torch.equal(cut.labels, whole.labels[:-3])
    assert torch.equal(cut.pixels, whole.pixels)
    (same,) = examples(PICTURE, max_length=tokens)
    assert same.cut == 0


def test_neither_media_nor_all_that_is_learned_may_be_cut(examples):
    with pytest.raises(DataError, match=r"line 1: .* tokens are more than max_length=12.*all tokens with loss"):
        examples(PICTURE, max_length=12, bad="stop")[0]
    late = {**PICTURE, "prompt": "What is it? <image>"}
    with pytest.raises(DataError, match="images or frames"):
        examples(late, max_length=5, bad="stop")[0]


def test_workers_read_the_same(examples):
    some = examples(GOOD, PICTURE, BAD["no JSON"])
    loaded = list(DataLoader(some, batch_size=None, num_workers=1, multiprocessing_context="spawn"))
    assert [one.input_ids.tolist() for one in loaded] == [one.input_ids.tolist() for one in some]
    assert loaded[2].skipped == some[2].skipped


@pytest.mark.parametrize("bad", ["skip", "stop"])
def test_a_file_that_changed_is_not_passed_over(bad, examples, tmp_path):
    some = examples(GOOD, GOOD, bad=bad)
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(DataError, match="has changed"):
        some[0]


@pytest.mark.parametrize("options", [{"bad": "ignore"}, {"max_length": 0}, {"max_length": "many"}])
def test_unknown_options_are_refused(options, examples):
    with pytest.raises(OptionError, match=r"bad=|max_length="):
        examples(GOOD, **options)
