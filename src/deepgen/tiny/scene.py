"""A scene: what stands where, in which style and size, on which ground, and the word on it.

A scene is what a caption claims, what the renderer draws and what the reader finds, so all three compare
values of this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from deepgen.tiny.nouns import FACING_NOUNS

Style = Literal["glossy", "flat"]  # Noto Emoji, Fluent Emoji flat
Size = Literal["small", "large"]  # 22 and 30 pixels
Facing = Literal["left", "right"]
Ground = Literal["white", "cream", "pink", "mint", "night", "meadow", "beach", "sea", "winter"]

CELL = 32  # pixels; a picture of 96x96 has 3x3 cells
ROWS = COLUMNS = 3
SIDES: dict[Size, int] = {"small": 22, "large": 30}  # pixels of a thing
MOST_THINGS = 4
MOST_LETTERS = 4
STYLES, SIZES, GROUNDS = get_args(Style), get_args(Size), get_args(Ground)
Cell = tuple[int, int]  # (row, column), from the top left

PLACES: dict[Cell, str] = {
    (0, 0): "top left",
    (0, 1): "top",
    (0, 2): "top right",
    (1, 0): "left",
    (1, 1): "middle",
    (1, 2): "right",
    (2, 0): "bottom left",
    (2, 1): "bottom",
    (2, 2): "bottom right",
}


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing in a cell.

    A noun that has no side to face is always "left", so that equal pictures are equal scenes.
    """

    noun: str
    cell: Cell
    style: Style = "glossy"
    size: Size = "large"
    facing: Facing = "left"

    def __post_init__(self) -> None:
        if self.noun not in FACING_NOUNS:
            object.__setattr__(self, "facing", "left")


@dataclass(frozen=True, kw_only=True)
class Word:
    """One to four capitals, centred in a row of cells; 24 pixels a letter."""

    text: str
    row: int

    def __post_init__(self) -> None:
        if not (1 <= len(self.text) <= MOST_LETTERS and self.text.isascii() and self.text.isalpha()):
            raise ValueError(f"a word has 1 to {MOST_LETTERS} letters A to Z, got {self.text!r}")
        if self.text != self.text.upper() or not 0 <= self.row < ROWS:
            raise ValueError(
                f"a word is of capitals in a row 0 to {ROWS - 1}, got {self.text!r} in {self.row}"
            )


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A whole picture. At most one thing a cell, and none in the row of the word."""

    ground: Ground = "white"
    things: tuple[Thing, ...] = ()
    word: Word | None = None

    def __post_init__(self) -> None:
        cells = [thing.cell for thing in self.things]
        if len(cells) > MOST_THINGS or len(set(cells)) < len(cells):
            raise ValueError(
                f"a scene has at most {MOST_THINGS} things, each in a cell of its own, got {cells}"
            )
        if self.word is not None and any(row == self.word.row for row, _ in cells):
            raise ValueError(f"the word takes row {self.word.row}, where a thing stands")
