"""Chains of edits: several direct edits of one picture in sequence that leave some cells unchanged.

Each edit is about the picture that the one before it should have made. All of them stay in one row and two
other cells, and none changes the ground, so whatever a model does to the four cells left over is a fault
that adds up from edit to edit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from deepgen.tiny.claims import CELLS, ThingClaim, changed_cells, contents
from deepgen.tiny.edits import added, put_in, swapped, to_place, trained_wordings
from deepgen.tiny.language import SIZE_WORDS, STYLE_WORDS, choose, noun_phrase, place, row_place
from deepgen.tiny.read import Reading
from deepgen.tiny.sampling import (
    free_cells,
    free_rows,
    sample_cells,
    sample_ground,
    sample_nouns,
    sample_things,
    sample_word,
    the,
)
from deepgen.tiny.scene import MOST_THINGS, ROWS, Cell, Scene, Thing, Word

CHAIN_LENGTH = 12


@dataclass(frozen=True, kw_only=True)
class ChainStep:
    """One edit: its words, the picture before and after as they should be, and what it asks of which cells.

    `stated` has None for a cell that has to be empty. `is_about_word` says that the word has to be the
    target's.
    """

    kind: str
    text: str
    before: Scene
    after: Scene
    stated: Mapping[Cell, ThingClaim | None]
    is_about_word: bool = False

    def held(self, reading: Reading) -> bool:
        """Whether what this edit asks for is in the picture; the rest of it is not looked at."""
        found = {thing.cell: thing for thing in reading.things}
        if any(cell in reading.unknown_cells for cell in self.stated):
            return False
        for cell, claim in self.stated.items():
            thing = found.get(cell)
            if (thing is None) != (claim is None) or (claim and thing and not claim.holds(thing)):
                return False
        return not self.is_about_word or reading.word == self.after.word

    def is_whole(self, reading: Reading) -> bool:
        """Whether ground, word, and the noun of every cell are those of the picture after this edit."""
        if reading.scene is None or reading.ground != self.after.ground or reading.word != self.after.word:
            return False
        found, wanted = contents(reading.scene), contents(self.after)
        return {cell: thing.noun for cell, thing in found.items()} == {
            cell: thing.noun for cell, thing in wanted.items()
        }


@dataclass(frozen=True, kw_only=True)
class EditChain:
    """A first picture, the edits, and the cells that none of them is about."""

    start: Scene
    steps: tuple[ChainStep, ...]
    untouched: frozenset[Cell]


def sample_chain(rng: np.random.Generator, length: int = CHAIN_LENGTH) -> EditChain:
    """A chain of so many edits, of kinds and things at random, in wordings that training draws."""
    row = int(rng.integers(ROWS))
    others = [cell for cell in CELLS if cell[0] != row]
    allowed = frozenset(CELLS) - frozenset(others) | frozenset(sample_cells(rng, 2, others))
    untouched = frozenset(CELLS) - allowed
    cells = [*sample_cells(rng, 2, sorted(untouched)), *sample_cells(rng, 1, sorted(allowed))]
    scene = Scene(ground=sample_ground(rng), things=tuple(sample_things(rng, sample_nouns(rng, 3), cells)))
    start, steps = scene, []
    while len(steps) < length:
        step = _MAKERS[choose(rng, tuple(_MAKERS))](rng, scene, allowed, row)
        if step is not None:
            steps.append(step)
            scene = step.after
    return EditChain(start=start, steps=tuple(steps), untouched=untouched)


def _word_it(rng: np.random.Generator, kind: str, needed: str, **parts: object) -> str:
    """One of the trained wordings of an edit that has this part."""
    templates = [text for text in trained_wordings(kind) if needed in text]
    return choose(rng, templates).format(**parts)


def _inside(scene: Scene, allowed: frozenset[Cell]) -> list[Thing]:
    return [thing for thing in scene.things if thing.cell in allowed]


def _free(scene: Scene, allowed: frozenset[Cell]) -> list[Cell]:
    return [cell for cell in free_cells(scene) if cell in allowed]


def _step(kind: str, text: str, before: Scene, after: Scene, **asked: str) -> ChainStep:
    """The edit between two scenes; asked for are the nouns of the changed cells, and what is `asked`."""
    now = contents(after)
    is_about_word = before.word != after.word
    # A new word is read as a word; where one was erased, its row has to be empty.
    cells = () if after.word not in (None, before.word) else sorted(changed_cells(before, after))
    stated = {
        cell: ThingClaim(nouns=(now[cell].noun,), **asked) if cell in now else None  # type: ignore[arg-type]
        for cell in cells
    }
    return ChainStep(
        kind=kind, text=text, before=before, after=after, stated=stated, is_about_word=is_about_word
    )


_Maker = Callable[[np.random.Generator, Scene, frozenset[Cell], int], ChainStep | None]


def _replace(rng: np.random.Generator, scene: Scene, allowed: frozenset[Cell], row: int) -> ChainStep | None:
    things = _inside(scene, allowed)
    if not things:
        return None
    old = choose(rng, things)
    noun = sample_nouns(rng, 1, without=[thing.noun for thing in scene.things])[0]
    text = _word_it(rng, "replace", "{old}", old=the(old.noun), new=noun_phrase(noun))
    return _step("replace", text, scene, put_in(scene, old, replace(old, noun=noun)))


def _remove(rng: np.random.Generator, scene: Scene, allowed: frozenset[Cell], row: int) -> ChainStep | None:
    things = _inside(scene, allowed)
    if not things:
        return None
    old = choose(rng, things)
    after = replace(scene, things=tuple(thing for thing in scene.things if thing != old))
    return _step("remove", _word_it(rng, "remove", "{old}", old=the(old.noun)), scene, after)


def _add(rng: np.random.Generator, scene: Scene, allowed: frozenset[Cell], row: int) -> ChainStep | None:
    cells = _free(scene, allowed)
    if not cells or len(scene.things) == MOST_THINGS:
        return None
    cell = choose(rng, cells)
    noun = sample_nouns(rng, 1, without=[thing.noun for thing in scene.things])[0]
    text = _word_it(rng, "add", "{where}", new=noun_phrase(noun), where=place(rng, cell))
    after = replace(scene, things=(*scene.things, added(scene, noun, cell)))
    return _step("add", text, scene, after)


def _move(rng: np.random.Generator, scene: Scene, allowed: frozenset[Cell], row: int) -> ChainStep | None:
    things, cells = _inside(scene, allowed), _free(scene, allowed)
    if not things or not cells:
        return None
    old, cell = choose(rng, things), choose(rng, cells)
    parts = {"old": the(old.noun), "to": to_place(rng, cell), "where": place(rng, cell)}
    return _step(
        "move",
        _word_it(rng, "move", "{old}", **parts),
        scene,
        put_in(scene, old, replace(old, cell=cell)),
    )


def _swap(rng: np.random.Generator, scene: Scene, allowed: frozenset[Cell], row: int) -> ChainStep | None:
    things = _inside(scene, allowed)
    if len(things) < 2:
        return None
    first, second = (things[i] for i in rng.choice(len(things), size=2, replace=False))
    text = _word_it(rng, "swap", "{old}", old=the(first.noun), other=the(second.noun))
    return _step("swap", text, scene, swapped(scene, first, second))


def _resize(rng: np.random.Generator, scene: Scene, allowed: frozenset[Cell], row: int) -> ChainStep | None:
    things = _inside(scene, allowed)
    if not things:
        return None
    old = choose(rng, things)
    new = replace(old, size="small" if old.size == "large" else "large")
    text = _word_it(rng, "resize", "{size}", old=the(old.noun), size=choose(rng, SIZE_WORDS[new.size]))
    return _step("resize", text, scene, put_in(scene, old, new), size=new.size)


def _restyle(rng: np.random.Generator, scene: Scene, allowed: frozenset[Cell], row: int) -> ChainStep | None:
    things = _inside(scene, allowed)
    if not things:
        return None
    old = choose(rng, things)
    new = replace(old, style="flat" if old.style == "glossy" else "glossy")
    text = _word_it(rng, "restyle", "{style}", old=the(old.noun), style=choose(rng, STYLE_WORDS[new.style]))
    return _step("restyle", text, scene, put_in(scene, old, new), style=new.style)


def _write(rng: np.random.Generator, scene: Scene, allowed: frozenset[Cell], row: int) -> ChainStep | None:
    if scene.word is not None or row not in free_rows(scene):
        return None
    word = Word(text=sample_word(rng), row=row)
    text = _word_it(rng, "write", "{row}", word=word.text, row=row_place(rng, row))
    return _step("write", text, scene, replace(scene, word=word))


def _erase(rng: np.random.Generator, scene: Scene, allowed: frozenset[Cell], row: int) -> ChainStep | None:
    if scene.word is None:
        return None
    text = _word_it(rng, "erase", "", word=scene.word.text)
    return _step("erase", text, scene, replace(scene, word=None))


_MAKERS: dict[str, _Maker] = {
    "replace": _replace,
    "remove": _remove,
    "add": _add,
    "move": _move,
    "swap": _swap,
    "resize": _resize,
    "restyle": _restyle,
    "write": _write,
    "erase": _erase,
}
