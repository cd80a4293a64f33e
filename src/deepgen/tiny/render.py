"""Drawing a scene.

A thing always stands at the same pixels of its cell, so what a cell looks like depends on the thing and the
color behind it only: such tiles are made once and copied. All of them together take about 18 MB.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from deepgen.tiny.scene import CELL, COLUMNS, ROWS, Facing, Ground, Scene, Size, Style
from deepgen.tiny.sprites import LETTER_SIDE, Drawings, letter, sprite

Color = tuple[int, int, int]
CANVAS = CELL * ROWS  # pixels of a side

# Color of each row of cells. Two-part grounds change on the border of two rows. They are far enough from the
# colors of the drawings that each is seen, and from each other that a reader tells them apart.
_SKY: Color = (168, 216, 250)


def _plain(red: int, green: int, blue: int) -> tuple[Color, Color, Color]:
    color = (red, green, blue)
    return color, color, color


GROUND_COLORS: dict[Ground, tuple[Color, Color, Color]] = {
    "white": _plain(250, 250, 250),
    "cream": _plain(247, 230, 180),
    "pink": _plain(246, 178, 206),
    "mint": _plain(176, 232, 204),
    "night": _plain(44, 54, 104),
    "meadow": (_SKY, (142, 208, 98), (142, 208, 98)),
    "beach": (_SKY, _SKY, (240, 212, 148)),
    "sea": (_SKY, (36, 104, 190), (36, 104, 190)),
    "winter": ((158, 172, 210), (158, 172, 210), (212, 228, 244)),
}
_DARK_INK: Color = (30, 30, 40)
_LIGHT_INK: Color = (255, 250, 220)


def ink(ground: Color) -> Color:
    """Color of letters on this ground."""
    luma = 0.299 * ground[0] + 0.587 * ground[1] + 0.114 * ground[2]
    return _DARK_INK if luma > 140 else _LIGHT_INK


def letter_left(num_letters: int) -> int:
    """Where a word of so many letters begins, in pixels from the left border."""
    return (CANVAS - num_letters * LETTER_SIDE) // 2


def render_array(scene: Scene, added: Drawings | None = None) -> np.ndarray:
    """The scene as uint8 (96, 96, 3); `added` are drawings of nouns that the world has not."""
    colors = GROUND_COLORS[scene.ground]
    canvas = ground_array(scene.ground).copy()
    for thing in scene.things:
        top, left = thing.cell[0] * CELL, thing.cell[1] * CELL
        color = colors[thing.cell[0]]
        if added and thing.noun in added:
            tile = _on_ground(added[thing.noun][thing.size], color)
        else:
            tile = _thing_tile(thing.noun, thing.style, thing.size, thing.facing, color)
        canvas[top : top + CELL, left : left + CELL] = tile
    if scene.word is not None:
        top, left = scene.word.row * CELL, letter_left(len(scene.word.text))
        for place, name in enumerate(scene.word.text):
            start = left + place * LETTER_SIDE
            canvas[top : top + CELL, start : start + LETTER_SIDE] = _letter_tile(name, colors[scene.word.row])
    return canvas


def render(scene: Scene, added: Drawings | None = None) -> Image.Image:
    """The scene as a 96x96 RGB picture."""
    return Image.fromarray(render_array(scene, added))


@cache
def ground_array(ground: Ground) -> np.ndarray:
    """A ground with nothing on it: uint8 (96, 96, 3). Do not write to it."""
    rows = np.array(GROUND_COLORS[ground], dtype=np.uint8)  # (3, 3): row, channel
    return np.repeat(np.repeat(rows[:, None], CELL, axis=0), CELL * COLUMNS, axis=1)


@cache
def _thing_tile(noun: str, style: Style, size: Size, facing: Facing, ground: Color) -> np.ndarray:
    return _on_ground(sprite(noun, style, size, facing), ground)


def _on_ground(drawing: np.ndarray, ground: Color) -> np.ndarray:
    pixels = drawing[..., :3] + (1 - drawing[..., 3:]) * np.array(ground, dtype=np.float32)
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


@cache
def _letter_tile(name: str, ground: Color) -> np.ndarray:
    coverage = letter(name)[..., None]
    paper, color = np.array(ground, dtype=np.float32), np.array(ink(ground), dtype=np.float32)
    return np.rint(paper + coverage * (color - paper)).astype(np.uint8)
