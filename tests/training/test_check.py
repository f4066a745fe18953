"""What a check of data says."""

import json

import pytest
from golden_cases import MEDIA

from mossvl.data.index import RecordIndex
from mossvl.model.packed_batch import PackedBatch
from mossvl.options import MediaOptions
from mossvl.processing.labels import IGNORED_LABEL
from mossvl.training.check import SHOWN, Statistics, Tokens, reason_of, rendered
from mossvl.training.dataset import FileExamples

TEXT = {"prompt": "What [b]is[/b] it?", "response": "A cät."}
PICTURE = {"prompt": "<image>What is it?", "response": "A red square.", "images": ["shapes.png"]}
CLIP = {
    "conversations": [
        {"from": "human", "value": "<image><video>And then?"},
        {"from": "gpt", "value": "Nothing."},
        {"from": "human", "value": "Why?"},
        {"from": "gpt", "value": "It ends."},
    ],
    "images": ["tall.png"],
    "videos": [{"video_path": "clip_10fps_6s.mp4", "segments": [[0, 3]]}],
}
MISSING = {"prompt": "What?", "response": "A cat.", "images": ["missing.png"]}


@pytest.fixture
def examples(tmp_path, processor):
    def examples(*records, **options):
        (tmp_path / "a.json").write_text(json.dumps(records))
        return FileExamples(processor, RecordIndex.build(tmp_path), MEDIA, MediaOptions(), **options)

    return examples


@pytest.mark.parametrize("workers", [0, 2])
def test_numbers_are_those_of_the_examples(workers, examples, processor):
    some = examples(TEXT, PICTURE | {"id": 3}, CLIP | {"id": 4, "source": "x"})
    all_of_them = list(some)
    found = Statistics.gather(some, workers)
    lengths = sorted(len(one.input_ids) for one in all_of_them)
    assert found.tokens == Tokens(lengths[0], lengths[1], lengths[2], sum(lengths))
    assert found.learned == sum(int((one.labels != IGNORED_LABEL).sum()) for one in all_of_them)
    assert (found.records, found.bad, found.bad_lines, found.cut) == (3, {}, (), 0)
    frames = all_of_them[2].grids[1][0]
    assert found.unread == {"id": 2, "source": 1}
    assert (found.images, found.videos, found.frames) == (2, 1, frames) and frames > 1
    image = processor.image_token_id
    packed = PackedBatch.pack(
        [one.input_ids == image for one in all_of_them], [one.grids for one in all_of_them], range(3), 2, None
    )
    assert found.vision_tokens == sum(packed.vision_lengths)


def test_bad_records_are_counted_by_reason(examples):
    some = examples(TEXT, *[MISSING] * (SHOWN + 1), {}, 5, max_length=1000)
    found = Statistics.gather(some)
    assert found.records == SHOWN + 4
    assert list(found.bad.values()) == [SHOWN + 1, 1, 1]
    assert len(found.bad_lines) == SHOWN and "a.json: record 2: " in found.bad_lines[0]


def test_forms_are_counted_by_file(examples, tmp_path):
    some = examples(TEXT, CLIP, TEXT, {"query": "Why?", "response": "So."}, {})
    (tmp_path / "b.jsonl").write_text(json.dumps({"instruction": "Look.", "output": "Yes."}))
    some.index = RecordIndex.build(tmp_path)
    mixed = {"prompt and response": 2, "conversations (ShareGPT, LLaVA)": 1, "query and response (ms-swift)": 1}
    assert Statistics.gather(some).forms == {
        str(tmp_path / "a.json"): mixed,
        str(tmp_path / "b.jsonl"): {"instruction and output (Alpaca)": 1},
    }


def test_cut_examples_are_counted(examples):
    tokens = len(examples(TEXT)[0].input_ids)
    assert Statistics.gather(examples(TEXT, max_length=tokens - 1)).cut == 1


def test_nothing_good_has_no_tokens(examples):
    assert Statistics.gather(examples(MISSING)).tokens == Tokens(0, 0, 0, 0)


def test_reasons_leave_details_out():
    assert reason_of("bad'x' of the list's end, '/a b' in /data/a.png (30 of 40)") == reason_of(
        "bad'x' of the list's end, 'c' in /b.png (1 of 2)"
    )


def test_a_text_shows_what_is_learned(examples, processor):
    text, _, clip = (rendered(processor, one) for one in examples(TEXT, PICTURE, CLIP))
    assert text == ("<|im_start|>user\nWhat [b]is[/b] it?<|im_end|>\n<|im_start|>assistant\n⟦A cät.<|im_end|>⟧\n")
    assert clip.count("⟦") == clip.count("⟧") == 2
    assert "⟦Nothing.<|im_end|>⟧" in clip and clip.endswith("⟦It ends.<|im_end|>⟧\n")
    assert "<|vision_start|><|time_start|>0.0 seconds<|time_end|><|image_pad|>" in clip
