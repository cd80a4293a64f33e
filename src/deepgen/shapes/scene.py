"""The flat world: one to four flat shapes on a plain background, at most one in each cell of a 3x3
grid.

A scene is small enough to be stated in words, drawn in microseconds and read back from pixels without a
model, so whatever is generated here can be judged exactly. Positions are a cell plus a jitter of at most two
pixels; the jitter is not part of what a scene *is*, and scenes compare equal without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

CANVAS = 96
CELL = 32
JITTER = 2
MAX_OBJECTS = 4

BACKGROUNDS = {
    "white": (250, 250, 250),
    "black": (12, 12, 12),
    "grey": (128, 128, 128),
    "brown": (106, 66, 36),
}
COLORS = {
    "red": (220, 30, 40),
    "green": (30, 165, 70),
    "blue": (40, 70, 225),
    "yellow": (250, 220, 40),
    "purple": (135, 45, 175),
    "orange": (250, 135, 20),
    "cyan": (60, 205, 225),
    "pink": (250, 140, 195),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
GUEST_SHAPES = ("corner",)  # can be drawn and read, but the model is not taught them; see docs/tutorials
SIZES = {"small": 15, "medium": 20, "large": 26}  # longer side of the bounding box, in pixels
CELLS = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)  # row by row; a cell is an index into this


@dataclass(frozen=True, kw_only=True)
class Object:
    """One shape: its attributes, its cell (0 to 8, row by row) and where in the cell it sits."""

    shape: str
    color: str
    size: str
    cell: int
    offset: tuple[int, int] = field(default=(0, 0), compare=False)  # (x, y) in pixels, each at most JITTER

    def __post_init__(self) -> None:
        """Refuse what the world does not have."""
        for value, known in (
            (self.shape, (*SHAPES, *GUEST_SHAPES)),
            (self.color, COLORS),
            (self.size, SIZES),
        ):
            if value not in known:
                raise ValueError(f"unknown attribute {value!r}; known: {', '.join(known)}")
        if not 0 <= self.cell < len(CELLS):
            raise ValueError(f"cell must be 0 to {len(CELLS) - 1}, got {self.cell}")

    @property
    def row(self) -> int:
        """Row of the grid, 0 at the top."""
        return self.cell // 3

    @property
    def column(self) -> int:
        """Column of the grid, 0 at the left."""
        return self.cell % 3


@dataclass(frozen=True, kw_only=True)
class ShapesScene:
    """A background and its objects in the order of their cells, so that equal pictures are equal scenes."""

    background: str
    objects: tuple[Object, ...]

    def __post_init__(self) -> None:
        """Order the objects; refuse an unknown background and two objects in one cell."""
        if self.background not in BACKGROUNDS:
            raise ValueError(f"unknown background {self.background!r}; known: {', '.join(BACKGROUNDS)}")
        ordered = tuple(sorted(self.objects, key=lambda item: item.cell))
        if len({item.cell for item in ordered}) != len(ordered):
            raise ValueError(f"two objects share a cell: {[item.cell for item in ordered]}")
        object.__setattr__(self, "objects", ordered)

    @property
    def free_cells(self) -> tuple[int, ...]:
        """Cells without an object."""
        taken = {item.cell for item in self.objects}
        return tuple(cell for cell in range(len(CELLS)) if cell not in taken)


def choose(rng: np.random.Generator, values: Sequence[str]) -> str:
    """One of the names, each as likely."""
    return values[int(rng.integers(len(values)))]


def sample_offset(rng: np.random.Generator) -> tuple[int, int]:
    """A jitter of at most JITTER pixels in each direction."""
    x, y = rng.integers(-JITTER, JITTER + 1, size=2)
    return int(x), int(y)


def sample_object(rng: np.random.Generator, cell: int) -> Object:
    """An object with every attribute drawn uniformly, in the given cell."""
    return Object(
        shape=choose(rng, SHAPES),
        color=choose(rng, tuple(COLORS)),
        size=choose(rng, tuple(SIZES)),
        cell=cell,
        offset=sample_offset(rng),
    )


def sample_scene(rng: np.random.Generator, num_objects: int | None = None) -> ShapesScene:
    """A scene of `num_objects` (1 to 4, uniformly drawn if None) in cells drawn without replacement."""
    count = int(rng.integers(1, MAX_OBJECTS + 1)) if num_objects is None else num_objects
    cells = rng.permutation(len(CELLS))[:count]
    objects = tuple(sample_object(rng, int(cell)) for cell in cells)
    return ShapesScene(background=choose(rng, tuple(BACKGROUNDS)), objects=objects)
