"""Scenes and words at random, and one wording out of several. Samplers of prompts build on these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np

from deepgen.tiny.claims import CELLS
from deepgen.tiny.facts import load_facts
from deepgen.tiny.language import choose, said
from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.scene import (
    GROUNDS,
    MOST_LETTERS,
    ROWS,
    SIZES,
    STYLES,
    Cell,
    Facing,
    Ground,
    Scene,
    Style,
    Thing,
    Word,
)

FACINGS: tuple[Facing, ...] = ("left", "right")
_MIXED_STYLES = 0.25  # share of scenes with things of both styles
_TURNED = 0.15  # share of things in pictures to edit that face right; a half where they are to be mirrored
_DICTIONARY_SHARE = 0.6  # of words; the rest are random letters


@dataclass(frozen=True)
class Wording:
    """A text drawn from a list of wordings; the last of a list is never trained."""

    text: str
    is_last: bool


def word_it(rng: np.random.Generator, templates: Sequence[str], **parts: object) -> Wording:
    """One of the templates with its parts filled in."""
    index = int(rng.integers(len(templates)))
    return Wording(templates[index].format(**parts), is_last=index == len(templates) - 1)


def sample_nouns(
    rng: np.random.Generator, number: int, among: Sequence[str] = NOUNS, without: Sequence[str] = ()
) -> list[str]:
    """Different nouns."""
    free = [noun for noun in among if noun not in without]
    return [free[i] for i in rng.choice(len(free), size=number, replace=False)]


def sample_cells(rng: np.random.Generator, number: int, among: Sequence[Cell] = CELLS) -> list[Cell]:
    """Different cells."""
    return [among[i] for i in rng.choice(len(among), size=number, replace=False)]


# Where things stand when nothing says where, in the order in which they are named. One way for each number:
# what is left open is decided all at once from noise, and where there were three ways for two things, cells
# that decided differently drew a thing too many in 10 of 72 pictures.
LAYOUT: dict[int, tuple[Cell, ...]] = {
    1: ((1, 1),),
    2: ((1, 0), (1, 2)),
    3: ((1, 0), (1, 1), (1, 2)),
    4: ((0, 0), (0, 2), (2, 0), (2, 2)),
}
# Of two things of which one relation is stated: the cell of the first and of the second.
RELATION_CELLS: dict[str, tuple[Cell, Cell]] = {
    "left of": ((1, 0), (1, 2)), "right of": ((1, 2), (1, 0)),
    "above": ((0, 1), (2, 1)), "below": ((2, 1), (0, 1)),
}  # fmt: skip


def plain_things(nouns: Sequence[str], cells: Sequence[Cell] | None = None) -> list[Thing]:
    """Things as a caption draws them that says nothing of how they look: glossy, large, facing left.

    Always so: where a share of them was flat, small or turned, the model drew a blend of both.
    In these cells, or as `LAYOUT` has it.
    """
    cells = LAYOUT[len(nouns)] if cells is None else cells
    return [Thing(noun=noun, cell=cell) for noun, cell in zip(nouns, cells, strict=True)]


# Rows and cells of a word, alone and below a thing, where nothing says where they stand.
WORD_ROW, ROW_BELOW_THING, CELL_ABOVE_WORD = 1, 2, (1, 1)


def sample_things(
    rng: np.random.Generator,
    nouns: Sequence[str],
    cells: Sequence[Cell] | None = None,
    turned: float = _TURNED,
) -> list[Thing]:
    """Things of these nouns in these cells or anywhere, as in a picture to be edited; mostly of one style.

    `turned` is the share of those that face right. Every way a thing may look has to be learned by itself, so
    those are frequent only where an edit is about them.
    """
    cells = sample_cells(rng, len(nouns)) if cells is None else cells
    style = choose(rng, STYLES)
    is_mixed = rng.random() < _MIXED_STYLES
    return [
        Thing(
            noun=noun,
            cell=cell,
            style=choose(rng, STYLES) if is_mixed else style,
            size=choose(rng, SIZES),
            facing=FACINGS[int(rng.random() < turned)],
        )
        for noun, cell in zip(nouns, cells, strict=True)
    ]


def sample_ground(rng: np.random.Generator) -> Ground:
    """A ground; white as often as three others, for that is what a picture without a ground looks like."""
    grounds: tuple[Ground, ...] = (*GROUNDS, "white", "white")
    return choose(rng, grounds)


def sample_word(rng: np.random.Generator) -> str:
    """A word of one to four capitals: of the dictionary, or random letters."""
    if rng.random() < _DICTIONARY_SHARE:
        return choose(rng, dictionary())
    length = int(rng.integers(1, MOST_LETTERS + 1))
    return "".join(choose(rng, ascii_uppercase) for _ in range(length))


_DICTIONARY: list[str] = []


def dictionary() -> list[str]:
    """Every real word of the world: of the facts file, opposites, numbers, and short nouns."""
    if not _DICTIONARY:
        facts = load_facts()
        words = {*facts.words, *facts.numbers.values(), *(w for pair in facts.opposites for w in pair)}
        words |= {noun.upper() for noun in NOUNS if is_short(noun)}
        _DICTIONARY.extend(sorted(words))
    return _DICTIONARY


def is_short(noun: str) -> bool:
    """Whether the noun can be written in a picture."""
    return len(noun) <= MOST_LETTERS and noun.isalpha()


def sample_source(
    rng: np.random.Generator,
    fewest: int = 1,
    most: int = 4,
    word_share: float = 0.2,
    turned: float = _TURNED,
) -> Scene:
    """A scene to be edited: things of different nouns, sometimes with a word in a row of its own."""
    number = int(rng.integers(fewest, most + 1))
    nouns = sample_nouns(rng, number)
    word, cells = None, list(CELLS)
    if rng.random() < word_share:
        word = Word(text=sample_word(rng), row=int(rng.integers(ROWS)))
        cells = [cell for cell in CELLS if cell[0] != word.row]
    things = sample_things(rng, nouns, sample_cells(rng, number, cells), turned)
    return Scene(ground=sample_ground(rng), things=tuple(things), word=word)


def free_cells(scene: Scene) -> list[Cell]:
    """Cells that another thing may take."""
    taken = {thing.cell for thing in scene.things}
    row = None if scene.word is None else scene.word.row
    return [cell for cell in CELLS if cell not in taken and cell[0] != row]


# Which cell a new thing takes where nothing says which: the middle, its sides, the corners.
_PREFERENCE: tuple[Cell, ...] = ((1, 1), (1, 0), (1, 2), (2, 1), (0, 1), (2, 0), (2, 2), (0, 0), (0, 2))


def preferred(cells: Sequence[Cell]) -> list[Cell]:
    """Cells in the order in which new things take them."""
    return sorted(cells, key=_PREFERENCE.index)


def free_rows(scene: Scene) -> list[int]:
    """Rows that a word may take."""
    taken = {thing.cell[0] for thing in scene.things} | ({scene.word.row} if scene.word else set())
    return [row for row in range(ROWS) if row not in taken]


def common_style(scene: Scene) -> Style:
    """The style that most things have."""
    flat = sum(thing.style == "flat" for thing in scene.things)
    return "flat" if 2 * flat > len(scene.things) else "glossy"


def the(noun: str) -> str:
    """The noun with "the"."""
    return f"the {said(noun)}"
