"""Live records as examples: tokens, what has loss, sizes of frames, positions."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_cases import MEDIA
from PIL import Image

from mossvl.data.index import RecordIndex
from mossvl.data.live import Stream, Turn, read_example
from mossvl.errors import CheckpointError, DataError
from mossvl.media.video import open_clip
from mossvl.options import MediaOptions
from mossvl.processing.patches import patches_of
from mossvl.processing.stream import REALTIME, RESPONSE, SILENCE, frame_text, opening_text, prompt_text
from mossvl.training.batches import Packer, pack
from mossvl.training.check import rendered
from mossvl.training.dataset import FileExamples
from mossvl.training.streams import Slots, encode_stream

S, R, F = SILENCE, RESPONSE, "<|video|>"
TIMES = (0.0, 1.5, 4.04, 5.96)


@pytest.fixture
def record(golden):
    answers = f"{S}{F}{S}{F}{R}A red{F}{R} square.{S}", f"{S}{F}{R}Blue.{S}"
    prompts = "Tell me what comes.", "And n<|im_end|>ow?"
    return {
        "messages": [
            {"role": role, "content": text}
            for pair in zip(prompts, answers, strict=True)
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ],
        "videos": [{"video_path": "clip_10fps_6s.mp4", "segments": [[time] for time in TIMES]}],
        "images": [],
        "metadata": {"level": "L3"},
    }


@pytest.fixture
def encode(processor):
    def encode(record, turn_end_loss=False, **options):
        return encode_stream(processor, read_example(record, MEDIA), MediaOptions(**options), turn_end_loss)

    return encode


def marked(processor, example):
    return rendered(processor, replace(example, times=()))


WRITTEN = [
    (opening_text(REALTIME, "Tell me what comes."), False),
    (S, True), (frame_text(0.0), False), (S, True), (frame_text(1.5), False),
    (f"{R}A red", True), (frame_text(4.04), False), (f"{R} square.{S}", True), (prompt_text("And now?"), False),
    (S, True), (frame_text(5.96), False), (f"{R}Blue.{S}", True), ("<|im_end|>\n", False),
]  # fmt: skip
"""The text of the record, and what of it has loss."""


def test_tokens_are_those_of_the_whole_text_and_of_its_pieces_as_a_session_appends_them(encode, record, processor):
    example = encode(record)
    whole = processor.tokenizer("".join(text for text, _ in WRITTEN), add_special_tokens=False)["input_ids"]
    pieces = [processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text, _ in WRITTEN]
    assert example.input_ids.tolist() == whole == [token for piece in pieces for token in piece]


def test_slots_have_loss_and_nothing_else_has_not_even_the_end_of_a_turn(encode, record, processor):
    assert marked(processor, encode(record)) == "".join(f"⟦{text}⟧" if loss else text for text, loss in WRITTEN)


def test_the_end_of_each_turn_can_have_loss_too(encode, record, processor):
    text = marked(processor, encode(record, turn_end_loss=True))
    assert text.count("<|im_end|>⟧") == 2 and text.endswith(f"⟦{R}Blue.{S}<|im_end|>⟧\n")
    assert f"⟦{R} square.{S}<|im_end|>⟧\n<|im_start|>user\nAnd now?<|im_end|>\n" in text


def test_frames_are_those_of_their_instants_with_the_sizes_and_pixels_of_images(encode, record, processor):
    example, layout = encode(record), processor.image_processor.layout
    with open_clip(MEDIA / "clip_10fps_6s.mp4") as clip:
        pictures = [Image.fromarray(one) for one in clip.read([0, 15, 40, 59])]
    alone = [processor.image_processor([picture]) for picture in pictures]
    assert example.grids == [tuple(one["grid_thw"][0].tolist()) for one in alone] and example.times == TIMES
    sides = [side * layout.patch_size for side in example.grids[0][1:]]
    expected = torch.cat([patches_of(np.asarray(one), *sides, layout, 1) for one in pictures])
    assert torch.equal(example.pixels, expected)


def test_many_frames_share_no_budget_and_are_bounded_alone(encode, record):
    full = encode(record).grids
    assert encode(record, video_max_pixels=4096, multi_image_max_pixels=4096).grids == full
    small = encode(record, max_pixels=64 * 64).grids
    assert all(rows * columns * 256 <= 64 * 64 for _, rows, columns in small) and small != full


def test_positions_and_what_is_visible_are_those_of_single_images(encode, record, processor):
    example = encode(record)
    packed = pack([example], processor.image_token_id, 2)["packed"]
    position, seen, expected = 0, 0, []
    for token in example.input_ids.tolist():
        if token == processor.image_token_id:
            rows, columns = (side // 2 for side in example.grids[0][1:])
            position, seen = position + max(rows, columns), seen + rows * columns + 1
        expected.append((position, seen))
        position += 1
    assert list(zip(packed.positions[0].tolist(), packed.visible.tolist(), strict=True)) == expected


@pytest.fixture
def examples(tmp_path, processor):
    def examples(*records, **options):
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
        return FileExamples(processor, RecordIndex.build(tmp_path), MEDIA, MediaOptions(), **options)

    return examples


def test_live_and_other_records_are_mixed_in_files_and_batches(examples, encode, record, processor):
    mixed = examples(record, {"prompt": "Who?", "response": "I."})
    assert torch.equal(mixed[0].labels, encode(record).labels) and mixed[1].times == ()
    batch = Packer(processor.image_token_id, 2)([mixed[0], mixed[1]])
    assert batch["input_ids"].shape[1] == sum(len(one.input_ids) for one in (mixed[0], mixed[1]))


def test_a_long_stream_ends_before_a_frame(examples, record, processor):
    (whole,) = examples(record)
    patches = len(whole.pixels) // len(TIMES)
    frame = processor.tokenizer.convert_tokens_to_ids("<|vision_start|>")
    begins = (whole.input_ids == frame).nonzero().flatten().tolist()
    length = len(whole.input_ids)
    for longest, frames in ((length, 4), (length - 1, 3), (begins[3], 3), (begins[3] - 1, 2)):
        (cut,) = examples(record, max_length=longest)
        end = begins[frames] if frames < 4 else length
        assert cut.input_ids.tolist() == whole.input_ids[:end].tolist() and cut.times == TIMES[:frames]
        assert cut.labels.tolist() == whole.labels[:end].tolist() and cut.grids == whole.grids[:frames]
        assert torch.equal(cut.pixels, whole.pixels[: frames * patches]) and cut.cut == length - end
    with pytest.raises(DataError, match="cutting would lose images or frames"):
        examples(record, max_length=begins[1] - 1, bad="stop")[0]


def test_leading_slots_are_dropped_alike_whenever_a_record_is_read(examples, record):
    def lengths(seed):
        return [len(one.input_ids) for one in examples(*[record] * 20, slots=Slots(0.5, seed=seed))]

    whole = len(examples(record)[0].input_ids)
    assert lengths(3) == lengths(3) != lengths(4)
    assert set(lengths(3)) == {whole, whole - 1, whole - 2}


def instants(file, *times):
    return {"videos": [{"video_path": file, "segments": [[time] for time in times]}]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (instants("clip_10fps_6s.mp4", 0, 1, 2, 60), r"\[60\.0\] lies outside"),
        (instants("gone.mp4", *TIMES), "gone.mp4: no such file"),
        (instants("clip_10fps_6s.mp4", 0, 1, 2), "4 .*placeholders, but .* 3 instants"),
    ],
    ids=["an instant after the end", "no file", "fewer instants"],
)
def test_a_bad_live_record_is_told_with_its_place(change, told, examples, record):
    with pytest.raises(DataError, match=rf"a\.jsonl: line 1: .*{told}"):
        examples({**record, **change}, bad="stop")[0]


def test_a_stream_of_which_nothing_is_the_assistants_has_nothing_to_learn(processor):
    with pytest.raises(DataError, match="nothing to learn"):
        encode_stream(processor, Stream(REALTIME, (Turn("Watch.", ("",)),), ()), MediaOptions())


def test_a_checkpoint_without_state_tokens_learns_no_streams(encode, record, processor, monkeypatch):
    tokens = processor.tokenizer.added_tokens_decoder
    lacking = {number: token for number, token in tokens.items() if token.content != S}
    monkeypatch.setattr(type(processor.tokenizer), "added_tokens_decoder", property(lambda self: lacking))
    with pytest.raises(CheckpointError, match="Realtime checkpoint"):
        encode(record)
