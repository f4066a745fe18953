"""Media are loaded by several threads as by one, and what is in memory is known by all of its pixels."""

import random
import threading

import numpy as np
import pytest
import torch
from golden_cases import MEDIA
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mossvl.processing.patches import patches_of
from mossvl.processing.pixels import PatchLayout
from mossvl.processing.plan import ImagePlan
from mossvl.queries.query import Query
from mossvl.sources import digests, reading
from mossvl.sources.digests import LEAF, digest_of, frame_digest, frame_of
from mossvl.sources.files import Load
from mossvl.sources.memory import Budget, MediaMemory
from mossvl.sources.source import Frame, Loaded, Planned, Stalled

SCALE = ((0.5,) * 3, (0.5,) * 3)
FILES = [str(MEDIA / "shapes.png"), str(MEDIA / "tall.png"), str(MEDIA / "clip_10fps_6s.mp4")]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def part(medium):
    if isinstance(medium, str) and medium.endswith("mp4"):
        return {"type": "video", "video": medium}
    if isinstance(medium, list):
        return {"type": "video", "video": [(float(second), image) for second, image in enumerate(medium)]}
    return {"type": "image", "image": medium}


def load(processor, media, memory=None, threads=1, first=None, expected=()):
    """(digests that were known, {number: (patches, digest)} of frames that were loaded), in order of their numbers."""
    query = Query.from_dict({"messages": [{"role": "user", "content": [*map(part, media), "?"]}]})
    events = []
    memory = MediaMemory(100) if memory is None else memory
    Load(query, query.messages([]), processor, memory, Budget(1 << 30), expected, threads).run(events.append, first)
    (ended,) = [event for event in events if isinstance(event, Loaded)]
    if ended.error is not None:
        raise ended.error
    frames = [event for event in events if isinstance(event, Frame)]
    assert [frame.number for frame in frames] == sorted(frame.number for frame in frames)
    planned = [event for event in events if isinstance(event, Planned)]
    return planned[0].digests if planned else None, {one.number: (one.patches, one.digest) for one in frames}


def random_media(seed):
    """A few media of all kinds, some of them twice."""
    choose, media = random.Random(seed), []
    for _ in range(choose.randint(1, 5)):
        height, width = choose.randint(20, 150), choose.randint(20, 150)
        pictures = [noise(height, width, choose.random().__hash__() % 1000) for _ in range(choose.randint(1, 9))]
        if choose.random() < 0.5:
            pictures = [Image.fromarray(picture) for picture in pictures]
        media.append(choose.choice([pictures, pictures[0], *FILES, *media[:1]]))
    return media


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(0, 12))
def test_several_threads_load_what_one_loads(processor, seed, threads, first):
    media = random_media(seed)
    known, frames = load(processor, media)
    assert load(processor, media, threads=threads)[0] == known
    for start in (0, first):
        found = load(processor, media, threads=threads, first=start, expected=known)[1]
        assert set(found) == {number for number in frames if number >= start}
        for number, (patches, digest) in found.items():
            assert digest == frames[number][1] and torch.equal(patches, frames[number][0])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("of", ["arrays", "Pillow images", "tensors", "images"])
def test_media_in_memory_that_were_seen_are_not_loaded_again(of, count, threads, processor):
    pixels = [noise(64, 96, seed) for seed in range(count)]
    kinds = {"arrays": np.array, "Pillow images": Image.fromarray, "tensors": torch.from_numpy, "images": np.array}
    pictures, memory = [kinds[of](one) for one in pixels], MediaMemory(100)
    media = pictures if of == "images" else [pictures]
    known, frames = load(processor, media, memory, threads)
    assert known == [None] * count and len(frames) == count
    again, none = load(processor, media, memory, threads)
    assert again == [digest for _, digest in frames.values()] and not none
    equal = [np.array(one) for one in pixels]
    assert load(processor, equal if of == "images" else [equal], memory, threads) == (again, {})


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(0, 1 << 30), st.integers(1, 3))
def test_a_changed_pixel_of_a_known_medium_is_seen(processor, count, place, threads):
    pictures, memory = [noise(64, 64, seed) for seed in range(count)], MediaMemory(100)
    _, before = load(processor, [pictures], memory, threads)
    changed = place % count
    pictures[changed].reshape(-1)[place // count % pictures[0].size] ^= 1
    _, after = load(processor, [pictures], memory, threads)
    assert {number for number in after if after[number][1] != before[number][1]} == {changed}
    assert torch.equal(after[changed][0], load(processor, [pictures], MediaMemory(0))[1][changed][0])


def test_media_with_the_same_middle_are_told_apart(processor):
    memory, middle = MediaMemory(100), noise(64, 64)
    lists = [[noise(64, 64, seed), middle, noise(64, 64, seed + 1)] for seed in (1, 5)]
    alone = [load(processor, [one], MediaMemory(0))[1] for one in lists]
    for _ in range(2):
        for one, expected in zip(lists, alone, strict=True):
            known, frames = load(processor, [one], memory)
            found = {number: frames[number][1] if frames else known[number] for number in range(3)}
            assert found == {number: digest for number, (_, digest) in expected.items()}


def image_plan(height, width, target):
    class Source:
        pass

    source = Source()
    source.height, source.width = height, width
    return ImagePlan(source, *target)


@pytest.mark.parametrize("size", [(48, 64), (200, 320)], ids=["hashed as decoded", "hashed as patches"])
def test_a_digest_stands_for_pixels_size_layout_and_scale(size):
    pixels, layout = noise(*size), PatchLayout()
    other = pixels.copy()
    other[:32] ^= 255
    turned = np.ascontiguousarray(pixels.reshape(size[1], size[0], 3))
    plan, larger = image_plan(*size, (64, 64)), image_plan(*size, (64, 96))
    given_ = [
        (pixels, plan, layout, SCALE),
        (other, plan, layout, SCALE),
        (pixels, larger, layout, SCALE),
        (pixels, plan, PatchLayout(8, merge_size=4), SCALE),
        (pixels, plan, layout, ((0.4,) * 3, (0.5,) * 3)),
        (turned, plan, layout, SCALE),
    ]
    found = [frame_of(lambda one=one: one, *rest)[1] for one, *rest in given_]
    assert len(set(found)) == len(given_) and {len(digest) for digest in found} == {16}
    assert found == [frame_digest(lambda one=one: one, *rest) for one, *rest in given_]


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_patches_do_not_depend_on_what_is_hashed(ratio):
    pixels, plan = noise(64, 64 * ratio), image_plan(64, 64 * ratio, (64, 64))
    patches, digest = frame_of(lambda: pixels, plan, PatchLayout(), SCALE)
    assert torch.equal(patches, patches_of(pixels, 64, 64, PatchLayout()))
    assert (digest == digest_of(patches, (4, 4), SCALE)) == (ratio == 3)


@settings(max_examples=20)
@given(st.integers(0, 1 << 30), st.integers(2, 5))
def test_every_byte_of_a_large_picture_counts(place, threads):
    patches = torch.zeros(3 * LEAF + 7, dtype=torch.uint8)
    digest = digest_of(patches, (1, 1), SCALE)
    assert digest_of(patches, (1, 1), SCALE, threads) == digest
    changed = [patches.clone(), patches.clone()]
    changed[0][place % LEAF] = changed[1][place % LEAF + LEAF] = 1
    assert len({digest, *(digest_of(one, (1, 1), SCALE, threads) for one in changed)}) == 3


def test_no_more_pictures_are_in_work_than_the_budget_has_room_for(processor, monkeypatch):
    """A load that may hold only one byte computes the picture that waits for room, and none ahead of it."""
    made, stalled = [], threading.Event()
    monkeypatch.setattr(reading, "frame_of", lambda *given: made.append(1) or digests.frame_of(*given))
    query = Query.from_dict({"messages": [{"role": "user", "content": [part([noise(64, 64, n) for n in range(30)])]}]})
    source = Load(query, query.messages([]), processor, MediaMemory(0), Budget(1), threads=4)
    source.start(lambda event: stalled.set() if isinstance(event, Stalled) else None)
    assert stalled.wait(60)
    count = len(made)
    source.stop()
    assert count <= 3  # The frame that was tried, the one that is held, and the one that waits.
