"""The drawings: `assets/storybook.png`, cut up. `tools/render_sprites.py` made it and has its layout."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import numpy as np
from PIL import Image

from deepgen.tiny.nouns import DRAWN_FACING_RIGHT, FACING_NOUNS, NOUNS
from deepgen.tiny.scene import CELL, SIZES, STYLES, Facing, Size, Style

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LETTER_SIDE = 24  # pixels
_COLUMNS = 16
# Of nouns that the world has not, a tile a size as `sprite` returns it.
Drawings = Mapping[str, Mapping[Size, np.ndarray]]


@cache
def _sheet() -> np.ndarray:
    """The sheet, float32 (H, W, 4): colors in 0..255, premultiplied by alpha, and alpha in 0..1."""
    with (files("deepgen") / "assets" / "storybook.png").open("rb") as file, Image.open(file) as image:
        image.load()
        if image.text.get("nouns", "").split() != list(NOUNS):
            raise ValueError(
                "assets/storybook.png was drawn for another list of nouns than nouns.py has; "
                "run tools/render_sprites.py"
            )
        pixels = np.asarray(image.convert("RGBA"), dtype=np.float32).copy()
    pixels[..., 3] /= 255
    pixels[..., :3] *= pixels[..., 3:]
    return pixels


def _tile(band: int, index: int) -> np.ndarray:
    """Cell number `index` of a band: float32 (32, 32, 4)."""
    rows_per_band = -(-len(NOUNS) // _COLUMNS)
    row, column = band * rows_per_band + index // _COLUMNS, index % _COLUMNS
    return _sheet()[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]


@cache
def sprite(noun: str, style: Style, size: Size, facing: Facing) -> np.ndarray:
    """A thing in the middle of its cell: float32 (32, 32, 4).

    Colors in 0..255, premultiplied, and alpha in 0..1. Do not write to it.
    """
    band = STYLES.index(style) * len(SIZES) + SIZES.index(size)
    tile = _tile(band, NOUNS.index(noun))
    if noun not in FACING_NOUNS:
        return tile
    return tile[:, ::-1] if (facing == "right") != (noun in DRAWN_FACING_RIGHT) else tile


@cache
def letter(name: str) -> np.ndarray:
    """Coverage of a capital: float32 (32, 24) in 0..1, as high as a cell. Do not write to it."""
    margin = (CELL - LETTER_SIDE) // 2
    return _tile(len(STYLES) * len(SIZES), LETTERS.index(name))[:, margin : margin + LETTER_SIDE, 3]
