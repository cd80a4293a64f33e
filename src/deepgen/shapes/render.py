"""Drawing a scene: anti-aliased masks, made once for each shape and size, blended onto the background.

A mask is drawn eight times too large and averaged down, so its values are the covered share of each pixel.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from deepgen.shapes.scene import BACKGROUNDS, CANVAS, CELL, COLORS, SIZES, ShapesScene

_OVERSAMPLING = 8


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape around the origin; the longer side of its bounding box is 1."""
    if shape == "square":
        return [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]
    if shape == "diamond":
        return [(0, -0.5), (0.38, 0), (0, 0.5), (-0.38, 0)]
    if shape == "triangle":
        return [(0, -0.46), (0.5, 0.46), (-0.5, 0.46)]
    if shape == "cross":
        a, b = 0.5, 0.165
        return [
            (-b, -a),
            (b, -a),
            (b, -b),
            (a, -b),
            (a, b),
            (b, b),
            (b, a),
            (-b, a),
            (-b, b),
            (-a, b),
            (-a, -b),
            (-b, -b),
        ]
    if shape == "corner":
        a, b = 0.5, 0.17
        return [(-a, -a), (-b, -a), (-b, b), (a, b), (a, a), (-a, a)]
    angles = -np.pi / 2 + np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.42) / (2 * np.sin(2 * np.pi / 5))
    return [(float(r * np.cos(t)), float(r * np.sin(t) + 0.05)) for r, t in zip(radii, angles, strict=True)]


@cache
def mask(shape: str, size: str) -> np.ndarray:
    """Coverage of a centred shape in its cell: float32 (32, 32) in [0, 1]. Do not write to it."""
    side, scale = CELL * _OVERSAMPLING, SIZES[size] * _OVERSAMPLING
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse(
            ((side - scale) / 2, (side - scale) / 2, (side + scale) / 2 - 1, (side + scale) / 2 - 1), fill=255
        )
    else:
        draw.polygon(
            [(side / 2 + x * scale - 0.5, side / 2 + y * scale - 0.5) for x, y in _outline(shape)], fill=255
        )
    pixels = np.asarray(image, dtype=np.float32) / 255
    return pixels.reshape(CELL, _OVERSAMPLING, CELL, _OVERSAMPLING).mean((1, 3))


def render_array(scene: ShapesScene) -> np.ndarray:
    """The scene as uint8 (96, 96, 3)."""
    canvas = np.empty((CANVAS, CANVAS, 3), dtype=np.float32)
    canvas[:] = BACKGROUNDS[scene.background]
    for item in scene.objects:
        x, y = item.offset
        coverage = np.roll(mask(item.shape, item.size), (y, x), (0, 1))[..., None]
        window = canvas[
            item.row * CELL : (item.row + 1) * CELL, item.column * CELL : (item.column + 1) * CELL
        ]
        window += coverage * (np.array(COLORS[item.color], dtype=np.float32) - window)
    return np.rint(canvas).astype(np.uint8)


def render(scene: ShapesScene) -> Image.Image:
    """The scene as a 96x96 RGB picture."""
    return Image.fromarray(render_array(scene))
