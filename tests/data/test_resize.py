"""The size rules against numbers measured on the original, and against their own definitions."""

from __future__ import annotations

import math

import pytest

from deepgen.data.resize import (
    RESIZE_RULES,
    fix_pixels,
    nearest_valid_sizes,
    reference_size,
    resize_rule,
    square_crop,
)

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


@pytest.mark.parametrize(("image", "expected"), MEASURED)
def test_fix_pixels_gives_the_sizes_measured_on_the_original(image, expected) -> None:
    assert fix_pixels(image[::-1], 512) == expected[::-1]


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


@pytest.mark.parametrize(
    ("image", "area", "tokens"),
    [
        ((700, 700), 1.000, 1024),
        ((640, 480), 1.039, 1064),
        ((1536, 1024), 1.094, 1120),
        ((1920, 1080), 1.031, 1056),
        ((1344, 768), 1.117, 1144),
        ((2000, 1000), 1.078, 1104),
        ((1500, 500), 1.094, 1120),
        ((1000, 100), 1.195, 1224),
    ],
)
def test_fix_pixels_has_the_areas_and_token_counts_of_the_original(image, area, tokens) -> None:
    height, width = resize_rule("fix_pixels").size(image[::-1], 512, 32)
    assert height * width / 512**2 == pytest.approx(area, abs=5e-4)
    assert height // 16 * (width // 16) == tokens


def test_fix_pixels_has_37_sizes_between_1_to_3_and_3_to_1() -> None:
    ratios = [3 ** (step / 4000) for step in range(-4000, 4001)]
    assert len({fix_pixels((round(3000 / ratio**0.5), round(3000 * ratio**0.5))) for ratio in ratios}) == 37


@pytest.mark.parametrize(
    ("rule", "image", "expected"),
    [
        ("dynamic", (300, 100), (320, 128)),  # smaller than the square: rounded up, never enlarged
        ("dynamic", (1024, 768), (512, 384)),
        ("dynamic", (1920, 1080), (512, 288)),
        ("resize2square", (1920, 1080), (512, 512)),
        ("resize2square", (10, 90), (512, 512)),
        ("crop2square", (1920, 1080), (512, 512)),
    ],
)
def test_the_other_rules_give_the_sizes_of_the_original(rule, image, expected) -> None:
    assert resize_rule(rule).size(image[::-1], 512, 32) == expected[::-1]


def test_only_crop2square_cuts() -> None:
    assert [name for name, rule in RESIZE_RULES.items() if rule.is_crop] == ["crop2square"]


def test_a_square_crop_slides_along_the_longer_side() -> None:
    assert square_crop((100, 300), 0.0) == (0, 0, 100, 100)
    assert square_crop((100, 300), 0.999999) == (200, 0, 300, 100)
    assert square_crop((300, 100), 0.5) == (0, 100, 100, 200)
    assert square_crop((64, 64), 0.7) == (0, 0, 64, 64)


def test_an_unknown_rule_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="known: fix_pixels, dynamic, resize2square, crop2square"):
        resize_rule("fit")


def test_a_square_that_is_no_multiple_is_refused() -> None:
    with pytest.raises(ValueError, match="try 512"):
        resize_rule("resize2square").size((10, 10), 500, 32)
