"""A picture of one's own as a new thing of the world: trimmed, squared and averaged down as the others were.

The world's drawings are made the same way by tools/render_sprites.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.scene import CELL, SIDES
from deepgen.tiny.sprites import Drawings
from deepgen.tiny.unknown import is_known

_LEAST_ALPHA = 0.1  # of what counts as drawn
_LEAST_COVERED = 0.05  # share of the trimmed square
_WHITE = 235  # a channel from here on is paper, in a picture without transparency


def add_drawing(path: Path, noun: str) -> Drawings:
    """The drawing in both sizes, under its noun.

    Of a picture without transparency the white around the thing is taken for paper; white inside stays.

    Raises:
        ValueError: the noun is no new word of small letters, or there is nothing drawn.
    """
    if not re.fullmatch(r"[a-z]+(?: [a-z]+)?", noun):
        raise ValueError(f"a noun is one or two words of small letters a to z, got {noun!r}")
    if noun.replace(" ", "-") in NOUNS or is_known(noun):
        raise ValueError(f"the world knows the word {noun!r} already; choose another noun")
    with Image.open(path) as image:
        image.load()
        pixels = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
    if pixels[..., 3].min() == 1:
        pixels = _without_paper(pixels)
    pixels = np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=-1)
    rows, columns = (np.flatnonzero((pixels[..., 3] > _LEAST_ALPHA).any(axis)) for axis in (1, 0))
    if not len(rows):
        raise ValueError(f"{path} has nothing drawn: every pixel is transparent or white")
    square = _squared(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    if (share := float(square[..., 3].mean())) < _LEAST_COVERED:
        raise ValueError(f"{path} covers {share:.0%} of its square, too thin to be seen at 22 pixels")
    return {noun: {size: _tile(square, side) for size, side in SIDES.items()}}


def _without_paper(pixels: np.ndarray) -> np.ndarray:
    """White that reaches the border becomes transparent: (H, W, 4)."""
    is_white = np.all(pixels[..., :3] >= _WHITE / 255, axis=-1)
    paper = np.zeros_like(is_white)
    paper[[0, -1]], paper[:, [0, -1]] = is_white[[0, -1]], is_white[:, [0, -1]]
    while True:
        grown = paper.copy()
        grown[1:] |= paper[:-1]
        grown[:-1] |= paper[1:]
        grown[:, 1:] |= paper[:, :-1]
        grown[:, :-1] |= paper[:, 1:]
        grown &= is_white
        if (grown == paper).all():
            break
        paper = grown
    return np.concatenate([pixels[..., :3], np.where(paper, 0, pixels[..., 3])[..., None]], axis=-1)


def _squared(pixels: np.ndarray) -> np.ndarray:
    """In the middle of an empty square of its longer side."""
    side = max(pixels.shape[:2])
    square = np.zeros((side, side, 4), np.float32)
    top, left = ((side - extent) // 2 for extent in pixels.shape[:2])
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return square


def _tile(square: np.ndarray, side: int) -> np.ndarray:
    """Averaged down to `side`, in the middle of a cell, as `sprites.sprite` returns it: (32, 32, 4)."""
    channels = [Image.fromarray(square[..., channel]) for channel in range(4)]
    small = np.stack([np.asarray(c.resize((side, side), Image.Resampling.BOX)) for c in channels], -1)
    tile = np.zeros((CELL, CELL, 4), np.float32)
    margin = (CELL - side) // 2
    tile[margin : margin + side, margin : margin + side] = small.clip(0, 1) * (255, 255, 255, 1)
    return tile
