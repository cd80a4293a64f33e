"""The size rules against numbers measured on the original, and against their own definitions."""

from __future__ import annotations

import math

import pytest

from deepgen.data.resize import fix_pixels, nearest_valid_sizes, reference_size

MEASURED = [  # (width, height) of the picture, (width, height) the original's training gives it at 512
    ((1024, 768), (608, 448)),
    ((640, 480), (608, 448)),
    ((1536, 1024), (640, 448)),
    ((1920, 1080), (704, 384)),
    ((1344, 768), (704, 416)),
    ((2000, 1000), (736, 384)),
    ((1500, 500), (896, 320)),
    ((1000, 100), (1632, 192)),
]


@pytest.mark.parametrize(("picture", "expected"), MEASURED)
def test_fix_pixels_gives_the_sizes_measured_on_the_original(picture, expected) -> None:
    assert fix_pixels(picture[::-1], 512) == expected[::-1]


def test_fix_pixels_never_lets_a_square_drift_to_the_next_multiple() -> None:
    assert {fix_pixels((side, side), 512) for side in range(1, 4097)} == {(512, 512)}


@pytest.mark.parametrize("size", [(333, 500), (500, 333), (17, 4000), (1, 1), (512, 700)])
def test_fix_pixels_rounds_each_side_up_to_the_next_multiple(size) -> None:
    for side, fixed in zip(size, fix_pixels(size, 512, 32), strict=True):
        exact = side * 512 / math.sqrt(size[0] * size[1])
        assert fixed % 32 == 0
        assert exact - 1e-6 <= fixed < exact + 32


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((512, 512), 512, (512, 512)),
        ((100, 300), 512, (128, 320)),  # smaller: rounded up, not enlarged
        ((511, 33), 512, (512, 64)),
        ((1024, 768), 512, (512, 384)),
        ((768, 1024), 512, (384, 512)),
        ((1080, 1920), 512, (288, 512)),
        ((1000, 100), 512, (512, 64)),
        ((90, 70), 96, (96, 96)),
        ((500, 500), 400, (416, 416)),  # a longest side that is no multiple is rounded up as well
    ],
)
def test_reference_size_scales_the_longer_side_down_and_rounds_up(size, max_side, expected) -> None:
    assert reference_size(size, max_side) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((500, 512), [(496, 512), (512, 512)]),
        ((512, 512), [(512, 512)]),
        ((1, 1), [(16, 16)]),
        ((520, 520), [(512, 512), (512, 528), (528, 512), (528, 528)]),
        ((519, 519), [(512, 512), (512, 528), (528, 512), (528, 528)]),
    ],
)
def test_nearest_valid_sizes_are_multiples_with_the_nearest_first(size, expected) -> None:
    assert nearest_valid_sizes(*size) == expected


@pytest.mark.parametrize("rule", [fix_pixels, lambda size: reference_size(size, 512)])
def test_sizes_without_pixels_are_refused(rule) -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        rule((0, 10))
