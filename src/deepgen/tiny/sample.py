"""Random scenes of every kind: for training the VAE, and for testing what reads scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.scene import (
    COLUMNS,
    GROUNDS,
    MOST_LETTERS,
    MOST_THINGS,
    ROWS,
    SIZES,
    STYLES,
    Cell,
    Facing,
    Scene,
    Thing,
    Word,
)
from deepgen.tiny.sprites import LETTERS

_Value = TypeVar("_Value")
_WORD_SHARE = 0.3
_EMPTY_SHARE = 0.03  # a ground with nothing on it
_REPEAT_SHARE = 0.3  # several of one thing, as counting has
_ONE_STYLE_SHARE = 0.7  # of scenes; the others mix
_FACINGS: tuple[Facing, Facing] = ("left", "right")


def choose(rng: np.random.Generator, values: Sequence[_Value]) -> _Value:
    """One of them, each as likely."""
    return values[int(rng.integers(len(values)))]


def sample_scene(rng: np.random.Generator, nouns: Sequence[str] = NOUNS) -> Scene:
    """Up to four things in free cells, and in three of ten scenes a word; in some of these, no thing."""
    ground = choose(rng, GROUNDS)
    if rng.random() < _EMPTY_SHARE:
        return Scene(ground=ground)
    word = None
    if rng.random() < _WORD_SHARE:
        text = "".join(choose(rng, LETTERS) for _ in range(int(rng.integers(1, MOST_LETTERS + 1))))
        word = Word(text=text, row=int(rng.integers(ROWS)))
    free = [
        (row, column) for row in range(ROWS) if word is None or row != word.row for column in range(COLUMNS)
    ]
    least = 0 if word is not None else 1
    count = int(rng.integers(least, MOST_THINGS + 1))
    cells = [free[int(place)] for place in rng.permutation(len(free))[:count]]
    return Scene(ground=ground, things=_sample_things(rng, cells, nouns), word=word)


def _sample_things(
    rng: np.random.Generator, cells: Sequence[Cell], nouns: Sequence[str]
) -> tuple[Thing, ...]:
    repeated = choose(rng, nouns) if rng.random() < _REPEAT_SHARE else None
    style = choose(rng, STYLES) if rng.random() < _ONE_STYLE_SHARE else None
    return tuple(
        Thing(
            noun=repeated or choose(rng, nouns),
            cell=cell,
            style=style or choose(rng, STYLES),
            size=choose(rng, SIZES),
            facing=choose(rng, _FACINGS),
        )
        for cell in cells
    )
