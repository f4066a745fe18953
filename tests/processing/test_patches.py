"""Pictures that several threads resize and cut are those of one thread, to the bit."""

import numpy as np
import pytest
import torch
from golden_cases import MEDIA
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mossvl.processing import patches
from mossvl.processing.patches import patches_of, resized
from mossvl.processing.pixels import PatchLayout, resize

SIDES = st.integers(1, 90)
TARGETS = st.integers(2, 90)
"""PyTorch fails to make a picture of one pixel, which is never asked for."""


@pytest.fixture(scope="module", autouse=True)
def narrow_strips():
    """Strips of small pictures, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "STRIP_BYTES", 100)
        yield


@pytest.fixture
def threads():
    """`threads(n)` sets PyTorch's number of threads."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(SIDES, SIDES, TARGETS, TARGETS, st.integers(2, 7), st.integers(0, 100))
def test_strips_are_resized_as_the_whole(rows, columns, height, width, threads, seed):
    planes = noise(rows, columns, seed).transpose(2, 0, 1)
    whole = resize(torch.from_numpy(planes), height, width).numpy()
    assert (resized(planes, height, width, threads) == whole).all()
    assert (resize(torch.from_numpy(planes.copy("C")), height, width).numpy() == whole).all()
    planes.flags.writeable = False
    assert (resized(planes, height, width, threads) == whole).all()


@given(SIDES, SIDES, st.integers(1, 5), st.integers(1, 5), st.integers(1, 7), st.sampled_from([(16, 2), (8, 1)]))
def test_patches_are_those_of_the_whole(rows, columns, high, wide, threads, sizes):
    layout = PatchLayout(sizes[0], merge_size=sizes[1])
    pixels, height, width = noise(rows, columns), high * layout.factor, wide * layout.factor
    whole = layout.cut(resize(torch.from_numpy(pixels).permute(2, 0, 1), height, width))
    assert torch.equal(patches_of(pixels, height, width, layout, threads), whole)


@given(st.integers(2, 12), st.integers(33, 90), st.integers(33, 90), st.integers(2, 4))
def test_processors_give_the_same_with_any_number_of_threads(processor, count, height, width, several):
    pictures = [Image.fromarray(noise(height, width, seed)) for seed in range(count)]
    frames = [(float(second), picture) for second, picture in enumerate(pictures)]
    given_, before = [], torch.get_num_threads()
    try:
        for number in (1, several):
            torch.set_num_threads(number)
            given_.append([processor.image_processor(pictures), processor.video_processor([frames])])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*given_, strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"])
        assert one["grid_thw"].tolist() == other["grid_thw"].tolist()


@pytest.mark.parametrize("name", ["clip_10fps_6s.mp4", "clip_40s.mp4"])
def test_frames_of_a_file_are_those_of_one_thread(name, processor, threads):
    found = []
    for number in (1, 4):
        threads(number)
        found.append(processor.video_processor([str(MEDIA / name)])["pixel_values"])
    assert torch.equal(*found)


def test_a_lazily_opened_image_may_be_several_frames(processor, threads, tmp_path):
    path, pixels = tmp_path / "noise.png", noise(900, 700)
    Image.fromarray(pixels).save(path)
    one = processor.video_processor([[(0.0, pixels)]], max_pixels=4096)["pixel_values"]
    threads(4)
    for _ in range(3):
        with Image.open(path) as image:
            frames = [(float(second), image) for second in range(8)]
            several = processor.video_processor([frames], max_pixels=4096)["pixel_values"]
        assert torch.equal(several, one.repeat(8, 1))
