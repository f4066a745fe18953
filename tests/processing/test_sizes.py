"""Sizes at their bounds; what lies between is compared with the reference implementation in `test_golden`."""

import pytest

from mossvl.errors import MediaError
from mossvl.processing.sizes import frame_size, image_size

SIZES = {
    "image": lambda height, width: image_size(height, width, 32, 1, 10**9),
    "frame": lambda height, width: frame_size(1, height, width, 32, 1, 10**9, 10**9),
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("sides", [(1, 1), (200, 1), (400, 2), (32, 6400)])
def test_a_side_may_be_200_times_the_other(size, sides):
    assert size(*sides) == tuple(max(32, round(side / 32) * 32) for side in sides)
    assert size(*sides[::-1]) == size(*sides)[::-1]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("sides", [(201, 1), (401, 2), (5, 0), (0, 0), (-1, 3), (-1, -1)])
def test_thinner_pictures_and_those_without_any_area_are_refused(size, sides):
    with pytest.raises(MediaError, match=f"{sides[1]} × {sides[0]} pixels: .* 200 times"):
        size(*sides)
    with pytest.raises(MediaError, match=f"{sides[0]} × {sides[1]} pixels"):
        size(*sides[::-1])


@pytest.mark.parametrize(("most", "expected"), [(4096, (64, 64)), (4095, (32, 64))])
def test_an_image_may_have_its_most_pixels(most, expected):
    """60 × 70 pixels are rounded to 64 × 64; what is more is made smaller from the sides as they are."""
    assert image_size(60, 70, 32, 1, most) == expected
    assert frame_size(1, 60, 70, 32, 1, most, 10**9) == expected


@pytest.mark.parametrize(("budget", "expected"), [(12_288, (64, 64)), (12_287, (32, 64))])
def test_frames_may_have_all_of_their_budget(budget, expected):
    assert frame_size(3, 60, 70, 32, 1, 10**9, budget) == expected


@pytest.mark.parametrize(("least", "expected"), [(4096, (64, 64)), (4097, (64, 96))])
def test_a_picture_may_have_its_least_pixels(least, expected):
    assert image_size(60, 70, 32, least, 10**9) == expected
    assert frame_size(3, 60, 70, 32, least, 10**9, 10**9) == expected
