"""Reading a scene back from pixels, exactly and without a model.

The background is the median of the border. Each cell is then unmixed into background and one color of the
palette, and the coverage is compared with the mask of every shape, size and jitter. A cell that holds
something no mask explains (two colors, a smear, a shape across the border of two cells) is reported as
unreadable rather than guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from deepgen.shapes.render import mask
from deepgen.shapes.scene import (
    BACKGROUNDS,
    CANVAS,
    CELL,
    CELLS,
    COLORS,
    JITTER,
    SHAPES,
    SIZES,
    Object,
    ShapesScene,
)

_REACH = JITTER + 1  # a generated object may sit one pixel beyond the world's jitter
_FOREGROUND = 55.0  # RGB distance from the background at which a pixel belongs to something
_LEAST_PIXELS = 24  # fewer foreground pixels than this in a cell are noise; the smallest shape has about 70
_LEAST_OVERLAP = 0.68  # intersection over union of coverage and mask
_MOST_COLOR_ERROR = 70.0  # mean RGB distance from the palette inside the mask
_MOST_BACKGROUND_ERROR = 60.0


@dataclass(frozen=True, kw_only=True)
class ShapesReading:
    """What was found: the background (None if it is none of the world's), the objects, and the cells not
    understood.
    """

    background: str | None
    objects: tuple[Object, ...]
    unreadable_cells: tuple[int, ...] = ()

    @property
    def scene(self) -> ShapesScene | None:
        """The scene, if everything in the picture was understood."""
        if self.background is None or self.unreadable_cells:
            return None
        return ShapesScene(background=self.background, objects=self.objects)


@cache
def _templates(shapes: tuple[str, ...]) -> tuple[np.ndarray, list[tuple[str, str, tuple[int, int]]]]:
    """Masks of those shapes in every size and jitter, float32 (T, 1024), and what each one is."""
    names = [
        (shape, size, (x, y))
        for shape in shapes
        for size in SIZES
        for x in range(-_REACH, _REACH + 1)
        for y in range(-_REACH, _REACH + 1)
    ]
    pixels = [np.roll(mask(shape, size), (y, x), (0, 1)).ravel() for shape, size, (x, y) in names]
    return np.stack(pixels), names


def read(image: Image.Image | np.ndarray, shapes: tuple[str, ...] = SHAPES) -> ShapesReading:
    """Read one picture of the world, 96x96 RGB (a PIL image or uint8 (96, 96, 3)).

    Only `shapes` are looked for; a guest that is not among them is unreadable.
    """
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image).astype(np.float32)
    if pixels.shape != (CANVAS, CANVAS, 3):
        raise ValueError(
            f"pictures of this world are {CANVAS}x{CANVAS} RGB, got an array of shape {pixels.shape}"
        )
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    base = np.median(border, axis=0)
    errors = {name: float(np.linalg.norm(base - np.array(color))) for name, color in BACKGROUNDS.items()}
    background = min(errors, key=errors.__getitem__)
    is_known = errors[background] < _MOST_BACKGROUND_ERROR

    objects, unreadable = [], []
    for cell in range(len(CELLS)):
        top, left = cell // 3 * CELL, cell % 3 * CELL
        window = pixels[top : top + CELL, left : left + CELL]
        is_foreground = np.linalg.norm(window - base, axis=-1) > _FOREGROUND
        if is_foreground.sum() < _LEAST_PIXELS:
            continue
        item = _read_cell(window, is_foreground, base, cell, shapes)
        if item is None:
            unreadable.append(cell)
        else:
            objects.append(item)
    return ShapesReading(
        background=background if is_known else None,
        objects=tuple(objects),
        unreadable_cells=tuple(unreadable),
    )


def _read_cell(
    window: np.ndarray, is_foreground: np.ndarray, base: np.ndarray, cell: int, shapes: tuple[str, ...]
) -> Object | None:
    """The object in a window (32, 32, 3), or None if no mask in one color explains it."""
    color = _color_of(window, is_foreground, base)
    paint = np.array(COLORS[color], dtype=np.float32)
    axis = paint - base
    coverage = np.clip((window - base) @ axis / (axis @ axis), 0, 1).ravel()  # (1024,)
    templates, names = _templates(shapes)
    distances = (templates**2).sum(1) - 2 * templates @ coverage
    best = int(np.argmin(distances))
    template = templates[best]
    overlap = np.minimum(template, coverage).sum() / np.maximum(template, coverage).sum()
    inside = template > 0.9
    color_error = np.linalg.norm(window.reshape(-1, 3)[inside] - paint, axis=-1).mean()
    if overlap < _LEAST_OVERLAP or color_error > _MOST_COLOR_ERROR:
        return None
    shape, size, offset = names[best]
    return Object(shape=shape, color=color, size=size, cell=cell, offset=offset)


def _color_of(window: np.ndarray, is_foreground: np.ndarray, base: np.ndarray) -> str:
    """The palette color most interior pixels are nearest to; rims are mixed with the background and do not
    vote.
    """
    padded = np.pad(is_foreground, 1)
    interior = is_foreground & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    voters = window[interior if interior.sum() >= 8 else is_foreground]  # (V, 3)
    names = list(COLORS)
    palette = np.array([COLORS[name] for name in names], dtype=np.float32)
    nearest = np.linalg.norm(voters[:, None] - palette, axis=-1).argmin(1)
    return names[int(np.bincount(nearest, minlength=len(names)).argmax())]
