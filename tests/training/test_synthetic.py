"""Examples of the procedural world: reproducible, and the prompts and pixels that files of it would give."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter

from mossvl.checkpoints.default import CHECKPOINT
from mossvl.data.index import RecordIndex
from mossvl.options import MediaOptions
from mossvl.processing.pixels import PatchLayout
from mossvl.processing.processor import MossVLProcessor
from mossvl.synthetic import write_clip, write_picture
from mossvl.synthetic.editions import SECOND
from mossvl.synthetic.live_records import tokens_by, write_records
from mossvl.synthetic.scene import Clip
from mossvl.synthetic.streaming import STREAMS
from mossvl.synthetic.tasks import GROUPS, TASKS, tasks_of
from mossvl.synthetic.world import Split, World
from mossvl.training.dataset import FileExamples
from mossvl.training.examples import encode
from mossvl.training.synthetic import (
    Phase,
    SyntheticExamples,
    SyntheticPacker,
    _compiled,
    _tiles,
    encode_live,
    encode_sample,
    messages_of,
)


@pytest.fixture(scope="module")
def tiny():
    return MossVLProcessor.from_pretrained(CHECKPOINT)


def drawn(processor, *examples):
    """The packed batch, its pixels drawn."""
    batch = SyntheticPacker(processor.image_token_id, processor.image_processor.merge_size)(examples)
    return batch, batch["pixel_values"].patches(PatchLayout())


@pytest.mark.parametrize("task", ["about_picture", "about_clip", "matching", "which_picture"])
def test_a_sample_gives_what_its_files_give(task, tiny, tmp_path):
    sample = TASKS[task](World(Split.TRAIN, 3, aspect=128 / 96))
    paths = {}
    for number, medium in enumerate(sample.media):
        name = tmp_path / f"{number}.{'mp4' if isinstance(medium, Clip) else 'png'}"
        (write_clip if isinstance(medium, Clip) else write_picture)(medium, name, 96, 128)
        paths[id(medium)] = str(name)
    messages = messages_of(sample)
    for message in messages:
        parts = message["content"] if isinstance(message["content"], list) else []
        for part in parts:
            if isinstance(part, dict) and part["type"] != "text":
                part[part["type"]] = paths[id(part[part["type"]])]
    from_files = encode(tiny, messages, MediaOptions(video_fps=sample.video_fps))
    made = encode_sample(tiny, sample, 96, 128)
    assert made.input_ids.tolist() == from_files.input_ids.tolist()
    assert made.labels.tolist() == from_files.labels.tolist()
    assert made.grids == from_files.grids
    _, pixels = drawn(tiny, made)
    assert pixels.shape == from_files.pixels.shape
    assert (pixels.float() - from_files.pixels.float()).abs().mean() < 2.5  # compression


@pytest.mark.parametrize("task", STREAMS)
def test_a_stream_gives_what_its_live_record_gives(task, tiny, tmp_path):
    sample = STREAMS[task](World(Split.TRAIN, 3, aspect=1.0))
    path = write_records([sample], tmp_path, size=128, tokenise=tokens_by(tiny))
    (from_file,) = FileExamples(tiny, RecordIndex.build(path), tmp_path, MediaOptions())
    made = encode_live(tiny, sample, 128, 128)
    assert made.input_ids.tolist() == from_file.input_ids.tolist()
    assert made.labels.tolist() == from_file.labels.tolist()
    assert made.grids == from_file.grids and made.times == from_file.times
    _, pixels = drawn(tiny, made)
    assert (pixels.float() - from_file.pixels.float()).abs().mean() < 2.5  # compression
    assert tiny.tokenizer.decode(made.input_ids[made.labels >= 0]).count("<|response|>") >= len(sample.replies)


def test_streams_are_a_group_of_tasks_to_train_on(tiny):
    examples = SyntheticExamples(tiny, Split.TRAIN, 5, 8, [Phase(0, {"alert": 1.0, "describe": 1.0})])
    assert {len(examples[number].times) > 0 for number in range(8)} == {True, False}
    assert set(GROUPS["streams"]) == set(STREAMS) and not set(STREAMS) & set(TASKS)


def test_an_example_is_the_same_in_every_run_and_others_differ(tiny):
    phases = [Phase(0, {"describe": 1.0})]
    first, again, other = (SyntheticExamples(tiny, Split.TRAIN, seed, 100, phases) for seed in (1, 1, 2))
    assert first[7].input_ids.tolist() == again[7].input_ids.tolist()
    assert [first[i].pixels for i in range(8)] == [again[i].pixels for i in range(8)]
    assert [first[i].pixels for i in range(8)] != [other[i].pixels for i in range(8)]


def test_phases_follow_each_other_and_runs_have_pictures_of_one_size(tiny):
    phases = [Phase(0, {"describe": 1.0}), Phase(40, {"order": 1.0})]
    examples = SyntheticExamples(tiny, Split.TRAIN, 5, 80, phases, run=10)
    frames = [sum(t for t, _, _ in examples[i].grids) for i in range(80)]
    assert set(frames[:40]) == {1} and min(frames[40:]) > 1
    sizes = [examples[i].pixels.size for i in range(80)]
    assert all(len(set(sizes[start : start + 10])) == 1 for start in range(0, 80, 10))
    assert len(set(sizes)) > 2


@given(st.integers(0, 2**30))
@settings(max_examples=20)
def test_any_batch_is_packed_and_drawn(tiny, seed):
    phases = [Phase(0, dict.fromkeys(TASKS, 1.0))]
    examples = SyntheticExamples(tiny, Split.TEST, seed, 4, phases, run=4)
    batch, pixels = drawn(tiny, *(examples[i] for i in range(4)))
    assert pixels.dtype == torch.uint8 and len(pixels) == sum(t * h * w for t, h, w in batch["packed"].grids)
    assert sum(batch["packed"].lengths) == batch["input_ids"].shape[1] == batch["labels"].shape[1]


def test_unknown_tasks_are_refused(tiny):
    with pytest.raises(ValueError, match="unknown tasks juggle"):
        SyntheticExamples(tiny, Split.TRAIN, 1, 10, [Phase(0, {"juggle": 1.0})])


def test_examples_of_several_sizes_are_packed_by_size(tiny):
    sizes = [(128, 128), (64, 192), (128, 128), (64, 64)]
    worlds = [World(Split.TRAIN, seed, width / height, SECOND) for seed, (height, width) in enumerate(sizes)]
    tasks = [tasks_of(SECOND)[name] for name in ("describe", "about_clip", "unknown", "which_picture")]
    examples = [encode_sample(tiny, make(world), *size) for make, world, size in zip(tasks, worlds, sizes, strict=True)]
    batch, pixels = drawn(tiny, *examples)
    alone = [drawn(tiny, examples[number]) for number in (3, 1, 0, 2)]
    assert batch["input_ids"].tolist() == torch.cat([one["input_ids"] for one, _ in alone], 1).tolist()
    assert torch.equal(pixels, torch.cat([patches for _, patches in alone]))


def test_examples_of_the_second_edition_have_many_sizes_and_bounded_clips(tiny):
    phases = [Phase(0, {"when": 1.0, "count_all": 1.0})]
    examples = SyntheticExamples(tiny, Split.TRAIN, 5, 240, phases, run=4, edition=SECOND)
    made = [examples[index] for index in range(240)]
    sizes = [one.pixels.size for one in made]
    assert all(len(set(sizes[start : start + 4])) == 1 for start in range(0, 240, 4)) and len(set(sizes)) > 15
    for one, (height, width) in zip(made, sizes, strict=True):
        frames = len(one.pixels.scenes)
        assert frames <= 4 or frames * height * width <= SECOND.room
    assert max(len(one.pixels.scenes) for one in made) > 30


def test_a_part_of_a_clip_gives_what_its_file_gives(tiny, tmp_path):
    samples = (tasks_of(SECOND)["when"](World(Split.TRAIN, seed, 1.0, SECOND)) for seed in range(100))
    sample = next(sample for sample in samples if sample.media[0].part and len(sample.media[0].tracks) < 3)

    def file(clip):
        write_clip(clip, tmp_path / "clip.mp4", 96, 96)
        return str(tmp_path / "clip.mp4")

    from_file = encode(tiny, messages_of(sample, file), MediaOptions(video_fps=sample.video_fps))
    made = encode_sample(tiny, sample, 96, 96)
    assert made.input_ids.tolist() == from_file.input_ids.tolist()
    _, pixels = drawn(tiny, made)
    assert (pixels.float() - from_file.pixels.float()).abs().mean() < 4  # compression


@pytest.fixture(scope="module")
def batches(tiny):
    """Pictures of many sizes: words in fonts, whose bitmaps are in the batch, pictures without, and clips."""
    packer = SyntheticPacker(tiny.image_token_id, tiny.image_processor.merge_size)
    tasks = {"read": 1, "describe": 1, "when": 1}
    examples = SyntheticExamples(tiny, Split.TRAIN, 5, 64, [Phase(0, tasks)], run=1, edition=SECOND)
    chosen = ([0, 1], [3, 4, 5], range(8, 12))
    pixels = [packer([examples[i] for i in numbers])["pixel_values"] for numbers in chosen]
    assert any(one.filmed.any() for one in pixels) and any(len(one.drawing.bitmaps) > 2 for one in pixels)
    assert len({run[1:] for one in pixels for run in one.runs}) > 5
    return pixels


@pytest.mark.parametrize("at_once", [7, 200])
def test_pictures_in_tiles_are_whole_pictures(batches, at_once):
    layout = PatchLayout()
    for pixels in batches:
        assert torch.equal(pixels.in_tiles(layout, at_once, _tiles), pixels.patches(layout))


def test_drawing_is_compiled_once_for_all_numbers_of_pictures_and_sizes(batches):
    counter = CompileCounter()
    for pixels in batches:
        pixels.in_tiles(PatchLayout(), 16, _compiled(counter))
    assert counter.frame_count == 1
