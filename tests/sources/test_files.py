"""What is remembered of files: nothing is read to no purpose, and nothing is taken for something else."""

import copy
import os
from pathlib import Path

import pytest
import torch
from golden_cases import MEDIA
from PIL import Image

from mossvl.errors import MediaError
from mossvl.queries.query import Query
from mossvl.sources.files import Load, digest_of
from mossvl.sources.memory import Budget, MediaMemory
from mossvl.sources.source import Frame, Loaded, Planned

SHAPES, TALL, CLIP = str(MEDIA / "shapes.png"), str(MEDIA / "tall.png"), str(MEDIA / "clip_10fps_6s.mp4")
IMAGE, VIDEO = {"type": "image", "image": SHAPES}, {"type": "video", "video": CLIP}
PARTS = {"video_path": CLIP, "segments": [[0, 1], [2, 3]]}


def asked(*parts, **options):
    return Query.from_dict({"messages": [{"role": "user", "content": [*parts, "?"]}], "media_kwargs": options})


QUERIES = {
    "image": asked(IMAGE),
    "another image": asked({"type": "image", "image": TALL}),
    "two images": asked(IMAGE, {"type": "image", "image": TALL}),
    "in another order": asked({"type": "image", "image": TALL}, IMAGE),
    "smaller": asked(IMAGE, max_pixels=8192),
    "smaller of itself": asked({**IMAGE, "max_pixels": 4096}),
    "the first one smaller": asked({**IMAGE, "max_pixels": 4096}, IMAGE),
    "the second one smaller": asked(IMAGE, {**IMAGE, "max_pixels": 4096}),
    "video": asked(VIDEO),
    "more frames": asked(VIDEO, video_fps=3),
    "more frames of itself": asked({**VIDEO, "video_fps": 2}),
    "smaller frames": asked(VIDEO, max_pixels=8192),
    "segments": asked({"type": "video", "video": PARTS}),
    "other segments": asked({"type": "video", "video": {**PARTS, "segments": [[0, 1], [3, 5]]}}),
    "times of segments": asked({"type": "video", "video": {**PARTS, "times": "segment"}}),
    "image and video": asked(IMAGE, VIDEO),
    "video and image": asked(VIDEO, IMAGE),
    "video twice": asked(VIDEO, {"type": "video", "video": PARTS}, VIDEO),
}


class Reports:
    """What a load reports, and what a request would know at its end."""

    def __init__(self, query, processor, memory, first=None, expected=()):
        self.events = []
        load = Load(query, query.messages([]), processor, memory, Budget(1 << 30), expected)
        load.run(self.events.append, first)
        self.frames = [event for event in self.events if isinstance(event, Frame)]
        (self.ended,) = [event for event in self.events if isinstance(event, Loaded)]

    @property
    def planned(self):
        return next(event for event in self.events if isinstance(event, Planned))

    @property
    def outcome(self):
        if self.ended.error is not None:
            raise self.ended.error
        planned, digests = self.planned, list(self.planned.digests)
        for frame in self.frames:
            digests[frame.number] = frame.digest
        return planned.input_text, planned.input_ids.tolist(), planned.grids, planned.media, digests


@pytest.fixture
def opened(monkeypatch, processor):
    """How often media were opened."""
    plan, times = type(processor).plan_media, []

    def plan_media(*given):
        times.append(1)
        return plan(*given)

    monkeypatch.setattr(type(processor), "plan_media", plan_media)
    return times


@pytest.fixture(scope="module")
def alone(processor):
    """What each query gives where nothing is remembered."""
    return {name: Reports(query, processor, MediaMemory(0)).outcome for name, query in QUERIES.items()}


@pytest.mark.parametrize("backwards", [False, True])
def test_whatever_was_seen_before_a_query_gives_what_it_gives_alone(backwards, alone, processor):
    memory = MediaMemory(1000)
    for name in sorted(QUERIES, reverse=backwards):
        assert Reports(QUERIES[name], processor, memory).outcome == alone[name]


@pytest.mark.parametrize("name", QUERIES)
def test_what_was_seen_is_neither_opened_nor_read_again(name, alone, processor, opened):
    memory = MediaMemory(1000)
    first = Reports(QUERIES[name], processor, memory)
    assert len(opened) == 1 and len(first.frames) == len(first.outcome[-1])
    again = Reports(QUERIES[name], processor, memory)
    assert len(opened) == 1 and not again.frames
    assert again.outcome == first.outcome == alone[name]


@pytest.mark.parametrize(("first", "then", "unknown"), [
    ("image", "two images", 1),
    ("two images", "in another order", 0),
    ("video", "image and video", 1),
    ("video twice", "video", 0),
    ("segments", "video twice", 12),
    ("video twice", "segments", 0),
    ("image and video", "image", 0),
    ("smaller", "image", 1),
    ("video", "more frames", 18),
])  # fmt: skip
def test_pixels_that_another_query_has_seen_are_known(first, then, unknown, processor):
    memory = MediaMemory(1000)
    Reports(QUERIES[first], processor, memory)
    assert Reports(QUERIES[then], processor, memory).planned.digests.count(None) == unknown


def changed(processor, **values):
    """A processor like another, with other values of its image and video processors."""
    other = copy.deepcopy(processor)
    for part in (other.image_processor, other.video_processor):
        for name, value in values.items():
            setattr(part, name, value)
    return other


@pytest.mark.parametrize(
    "values",
    [
        {"image_mean": [0.4, 0.5, 0.5]},
        {"image_std": [0.5, 0.5, 0.4]},
        {"size": {"shortest_edge": 4096, "longest_edge": 8192}},
        {"merge_size": 1},
        {"patch_size": 8},
    ],
)
@pytest.mark.parametrize("name", ["image", "video"])
def test_processors_of_other_settings_see_for_themselves(name, values, processor):
    memory, other = MediaMemory(1000), changed(processor, **values)
    Reports(QUERIES[name], processor, memory)
    found, expected = (Reports(QUERIES[name], other, kept).outcome for kept in (memory, MediaMemory(0)))
    assert found == expected


@pytest.mark.parametrize("name", ["image", "video"])
def test_a_processor_that_sizes_only_media_of_this_kind_otherwise_sees_for_itself(name, processor):
    memory, other = MediaMemory(1000), copy.deepcopy(processor)
    getattr(other, f"{name}_processor").size = {"shortest_edge": 1024, "longest_edge": 4096}
    Reports(QUERIES[name], processor, memory)
    found, expected = (Reports(QUERIES[name], other, kept).outcome for kept in (memory, MediaMemory(0)))
    assert found == expected != Reports(QUERIES[name], processor, memory).outcome


def test_a_file_that_has_changed_is_read_again(processor, tmp_path):
    memory, path = MediaMemory(1000), tmp_path / "picture.png"
    query = asked({"type": "image", "image": str(path)})
    outcomes = []
    for colour in ("red", "blue", "red"):
        Image.new("RGB", (64, 64), colour).save(path)
        reports = Reports(query, processor, memory)
        assert len(reports.frames) == 1
        outcomes.append(reports.outcome)
    assert outcomes[0] == outcomes[2] != outcomes[1]


def test_the_same_file_by_another_name_is_known(processor, tmp_path, opened):
    memory, link = MediaMemory(1000), tmp_path / "link.png"
    link.symlink_to(Path(SHAPES).resolve())
    Reports(QUERIES["image"], processor, memory)
    for name in (str(link), link.as_uri(), os.path.relpath(SHAPES)):
        assert not Reports(asked({"type": "image", "image": name}), processor, memory).frames
    assert len(opened) == 1


def test_nothing_is_remembered_of_what_is_no_file(processor, opened):
    memory = MediaMemory(1000)
    picture = Image.new("RGB", (64, 64), "red")
    frames = {"type": "video", "video": [(0.0, SHAPES), (1.0, SHAPES)]}
    for query in (asked({"type": "image", "image": picture}), asked(IMAGE, frames), asked()):
        opened.clear()
        first, again = (Reports(query, processor, memory) for _ in range(2))
        assert first.outcome == again.outcome and len(opened) == 2
    picture.paste("blue", (0, 0, 64, 64))
    other = Reports(asked({"type": "image", "image": picture}), processor, memory)
    assert other.outcome[-1] != Reports(asked({"type": "image", "image": SHAPES}), processor, memory).outcome[-1]


def test_pictures_that_are_no_files_are_not_taken_for_each_other(processor):
    memory = MediaMemory(1000)
    red, blue = (asked({"type": "image", "image": Image.new("RGB", (64, 64), colour)}) for colour in ("red", "blue"))
    Reports(red, processor, memory)
    assert Reports(blue, processor, memory).outcome == Reports(blue, processor, MediaMemory(0)).outcome


def test_a_digest_stands_for_pixels_shape_and_scale():
    patches = torch.arange(24, dtype=torch.uint8).view(4, 6)
    other = patches.clone()
    other[3, 5] += 1
    scale = ((0.5,) * 3, (0.5,) * 3)
    digests = [
        digest_of(patches, (2, 2), scale),
        digest_of(other, (2, 2), scale),
        digest_of(patches, (1, 4), scale),
        digest_of(patches, (4, 1), scale),
        digest_of(patches, (2, 2), ((0.4,) * 3, (0.5,) * 3)),
    ]
    assert len(set(digests)) == 5 and {len(digest) for digest in digests} == {16}
    assert digest_of(patches.clone(), (2, 2), scale) == digests[0]


@pytest.mark.parametrize("missing", [1, 100])
def test_a_medium_with_fewer_frames_than_it_had_has_changed(missing, processor):
    memory = MediaMemory(1024)
    frames = len(Reports(QUERIES["video"], processor, memory).planned.digests)
    known = [b"0"] * (frames + missing)
    with pytest.raises(MediaError, match="changed while it was being used"):
        raise Reports(QUERIES["video"], processor, memory, frames, known).ended.error
