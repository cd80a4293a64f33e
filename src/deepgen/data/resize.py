"""Resizing rules: the size a picture gets before the model reads it.

Every side ends as a multiple of a unit: the VAE shrinks by 8 and the DiT groups 2 x 2, so nothing below 16
works, and the vision tower merges its patches in squares of 32 pixels. Sizes are `(height, width)` in pixels,
as in the model's arguments. Everything is counted in integers, so a square never drifts to the next multiple.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import isqrt

Size = tuple[int, int]  # (height, width) in pixels


@dataclass(frozen=True)
class ResizeRule:
    """A named rule of the training data.

    Attributes:
        size: (picture's size, image_size, unit) -> the size it is given.
        is_crop: whether a random square is cut out first, which an edit's pictures would not survive.
    """

    name: str
    size: Callable[[Size, int, int], Size]
    is_crop: bool = False


def resize_rule(name: str) -> ResizeRule:
    """The rule of that name; ValueError lists those there are."""
    if name not in RESIZE_RULES:
        raise ValueError(f"unknown resize rule {name!r}; known: {', '.join(RESIZE_RULES)}")
    return RESIZE_RULES[name]


def fix_pixels(size: Size, image_size: int = 512, unit: int = 32) -> Size:
    """The training rule: scale to an area of `image_size` squared, then round each side up to a `unit`.

    Small pictures are enlarged; the area never falls below `image_size` squared.
    """
    height, width = _checked(size)
    return _fixed_side(height, width, image_size, unit), _fixed_side(width, height, image_size, unit)


def reference_size(size: Size, max_side: int, unit: int = 32) -> Size:
    """The rule for pictures given to an edit: never enlarged beyond rounding up to a multiple of `unit`.

    A picture whose longer side reaches `max_side` is first scaled until that side equals it.
    """
    height, width = _checked(size)
    longer = max(height, width)
    if longer >= max_side:
        height, width = -(-height * max_side // longer), -(-width * max_side // longer)
    return _ceil(height, unit), _ceil(width, unit)


def square(size: Size, image_size: int = 512, unit: int = 32) -> Size:
    """A square of `image_size`, whatever the picture's shape."""
    _checked(size)
    if image_size % unit:
        raise ValueError(
            f"image_size {image_size} is not a multiple of {unit}; try {_ceil(image_size, unit)}"
        )
    return image_size, image_size


def square_crop(size: Size, place: float) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the largest square in a picture; `place` in [0, 1) slides it along."""
    height, width = _checked(size)
    side = min(height, width)
    left, top = int(place * (width - side + 1)), int(place * (height - side + 1))
    return left, top, left + side, top + side


def enlarged_from(drawn: Size, final: Size) -> str:
    """What is said of a picture that was drawn smaller than it is; nothing of any other.

    Every place that hands out pictures says it in these words: `drawn at 512x384, enlarged to 4000x3000`.
    """
    if drawn[0] >= final[0] and drawn[1] >= final[1]:
        return ""
    return f"drawn at {drawn[1]}x{drawn[0]}, enlarged to {final[1]}x{final[0]}"


def nearest_valid_sizes(height: int, width: int, unit: int = 16) -> list[Size]:
    """Up to four sizes around (height, width) whose sides are multiples of `unit`, the nearest first."""
    candidates = set(product(_neighbours(height, unit), _neighbours(width, unit)))
    return sorted(candidates, key=lambda size: (abs(size[0] - height) + abs(size[1] - width), size))


def _fixed_side(side: int, other: int, image_size: int, unit: int) -> int:
    """The smallest n * unit with n * unit >= side * image_size / sqrt(side * other)."""
    squared = -(-image_size * image_size * side // (unit * unit * other))  # n^2 must reach this
    return (isqrt(squared - 1) + 1) * unit


def _ceil(side: int, unit: int) -> int:
    return -(-side // unit) * unit


def _neighbours(side: int, unit: int) -> tuple[int, int]:
    return max(side // unit * unit, unit), max(_ceil(side, unit), unit)


def _checked(size: Size) -> Size:
    if min(size) < 1:
        raise ValueError(f"a picture needs at least one pixel each way, got (height, width) = {tuple(size)}")
    return size


RESIZE_RULES = {
    rule.name: rule
    for rule in (
        ResizeRule("fix_pixels", fix_pixels),
        ResizeRule("dynamic", reference_size),
        ResizeRule("resize2square", square),
        ResizeRule("crop2square", square, is_crop=True),
    )
}
