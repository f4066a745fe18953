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


# --- live records --------------------------------------------------------------------------------------------------


def live(*answers, **others):
    turns = [("user", "Watch."), ("assistant", answers[0])]
    turns += [turn for answer in answers[1:] for turn in (("user", "And now?"), ("assistant", answer))]
    instants = [[time] for time in range(sum(answer.count("<|video|>") for answer in answers))]
    return {
        "messages": [{"role": role, "content": text} for role, text in turns],
        "videos": [{"video_path": "clip_10fps_6s.mp4", "segments": instants}],
        **others,
    }


WATCHED = "<|silence|>" + 4 * "<|video|><|silence|>" + "<|video|><|response|>A red<|video|><|response|> car.<|silence|>"


def test_streams_are_counted_apart_from_videos(examples):
    found = Statistics.gather(examples(live(WATCHED), live("<|video|><|silence|>", "<|silence|>"), CLIP, TEXT))
    assert (found.streams, found.stream_frames, found.silences, found.responses) == (2, 7, 8, 2)
    assert (found.images, found.videos) == (1, 1) and found.frames == Statistics.gather(examples(CLIP)).frames
    assert [*next(iter(found.forms.values()))] == [
        "live records as messages (OpenAI)", "conversations (ShareGPT, LLaVA)", "prompt and response",
    ]  # fmt: skip


def test_a_live_record_is_drawn_as_a_timeline(examples, processor):
    ((_, rows, columns), *_) = (one := examples(live(WATCHED, "", system_prompt="Look."))[0]).grids
    size = rows * columns // 4 + 1
    assert rendered(processor, one).splitlines() == [
        "stream of 6 frames, 0.0 to 5.0 s; with loss: 6 × <|silence|> (α 0.67), 2 × <|response|> (α 2.00), "
        f"{int((one.labels != IGNORED_LABEL).sum())} tokens in all",
        f"{'':12}<|im_start|>system⏎Look.<|im_end|>⏎<|im_start|>user⏎Watch.<|im_end|>⏎<|im_start|>assistant⏎",
        f"{'':12}⟦<|silence|>⟧",
        f"     0.0 s  [{size}] ⟦<|silence|>⟧",
        f"{'':12}… 2 × the same",
        f"     3.0 s  [{size}] ⟦<|silence|>⟧",
        f"     4.0 s  [{size}] ⟦<|response|>A red⟧",
        f"     5.0 s  [{size}] ⟦<|response|> car.<|silence|>⟧",
        f"{'':12}<|im_end|>⏎<|im_start|>user⏎And now?<|im_end|>⏎<|im_start|>assistant⏎<|im_end|>⏎",
    ]


def test_few_lines_alike_are_all_drawn(examples, processor):
    text = rendered(processor, examples(live("<|silence|>" + 3 * "<|video|><|silence|>"))[0])
    assert text.count("s  [") == 3 and "the same" not in text
