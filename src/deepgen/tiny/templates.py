"""What the reader compares a cell with: every drawing of the world, and drawings that are added to it.

A thing on a ground is `colors - alpha * ground`, so nothing has to be kept for each ground but norms and
inner products of the drawings.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from deepgen.tiny.nouns import FACING_NOUNS, NOUNS
from deepgen.tiny.scene import SIZES, STYLES, Facing, Size, Style
from deepgen.tiny.sprites import Drawings, sprite

Color = tuple[float, ...]  # of a ground, in 0..255
Name = tuple[str, Style, Size, Facing]
BLUR = 2.5  # sigma in pixels of the blurred drawing that must not explain a cell better


class Templates:
    """T drawings of things, by number.

    Attributes:
        names: (noun, style, size, facing) of each.
    """

    def __init__(self, added: Drawings | None = None) -> None:
        """The world's drawings, and those of nouns that it has not, which are of the first style."""
        self.names: list[Name] = [
            (noun, style, size, facing)
            for noun in NOUNS
            for style in STYLES
            for size in SIZES
            for facing in (("left", "right") if noun in FACING_NOUNS else ("left",))
        ]
        tiles = [sprite(*name) for name in self.names]
        for noun, drawings in (added or {}).items():
            if noun in NOUNS:
                raise ValueError(f"the world has {noun!r} already; name the drawing otherwise")
            self.names += [(noun, STYLES[0], size, "left") for size in SIZES]
            tiles += [drawings[size] for size in SIZES]
        self._tiles = np.stack(tiles)  # (T, 32, 32, 4)
        colors, alpha = self._tiles[..., :3], self._tiles[..., 3]
        self._colors, self._alpha = colors.reshape(len(tiles), -1), alpha.reshape(len(tiles), -1)
        products = (colors * alpha[..., None]).sum((1, 2))
        self._sums = np.concatenate(
            [(colors**2).sum((1, 2)), products, (alpha**2).sum((1, 2))[:, None]], axis=1
        )  # (T, 7), what norms on a ground need
        self._blurred: dict[int, np.ndarray] = {}
        self._norms: dict[Color, np.ndarray] = {}
        self._own: dict[tuple[int, Color], np.ndarray] = {}

    def on(self, index: int, color: np.ndarray) -> np.ndarray:
        """A drawing on a ground of that color, without the ground: (32, 32, 3)."""
        tile = self._tiles[index]
        return tile[..., :3] - tile[..., 3:] * color

    def blurred_on(self, index: int, color: np.ndarray) -> np.ndarray:
        """The same of the blurred drawing."""
        if index not in self._blurred:
            self._blurred[index] = blur(self._tiles[index])
        tile = self._blurred[index]
        return tile[..., :3] - tile[..., 3:] * color

    def products(self, window: np.ndarray, color: np.ndarray) -> np.ndarray:
        """Inner product of a window (32, 32, 3) with every drawing on a ground of that color: (T,)."""
        return self._colors @ window.ravel() - self._alpha @ (window @ color).ravel()

    def norms(self, color: Color) -> np.ndarray:
        """Squared norm of every drawing on a ground of that color: (T,)."""
        if color not in self._norms:
            base, sums = np.array(color, dtype=np.float32), self._sums
            norms = sums[:, :3].sum(1) - 2 * sums[:, 3:6] @ base + sums[:, 6] * (base @ base)
            self._norms[color] = norms
        return self._norms[color]

    def own_products(self, index: int, color: Color) -> np.ndarray:
        """Inner product of one drawing with every one, on a ground of that color: (T,). All take 10 MB."""
        if (index, color) not in self._own:
            paper = np.array(color, dtype=np.float32)
            self._own[index, color] = self.products(self.on(index, paper), paper)
        return self._own[index, color]


@cache
def world_templates() -> Templates:
    """The world's own."""
    return Templates()


def blur(drawing: np.ndarray) -> np.ndarray:
    """Gaussian blur of (H, W, C), zero outside."""
    reach = np.arange(-8, 9)
    kernel = np.exp(-(reach**2) / (2 * BLUR**2)).astype(np.float32)
    kernel /= kernel.sum()
    for axis in (0, 1):
        widths = [(8, 8) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(drawing, widths)
        size = drawing.shape[axis]
        drawing = sum(w * padded.take(range(i, i + size), axis) for i, w in enumerate(kernel))  # type: ignore
    return drawing
