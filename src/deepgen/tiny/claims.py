"""Claims about a scene, and the check whether a scene satisfies them.

A `Claim` states some properties of a picture; what it does not state is free, and nothing extra may be there.
An `EditClaim` is a claim on the result of an edit plus the cells that the edit has to leave as they were.
Benchmarks, rewards and tests judge scenes by `holds` and by nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

from deepgen.moved import renamed
from deepgen.tiny.scene import COLUMNS, ROWS, Cell, Facing, Ground, Scene, Size, Style, Thing, Word

# (row, column): where the first thing lies, seen from the second.
RELATIONS: dict[str, Cell] = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
CELLS: tuple[Cell, ...] = tuple((row, column) for row in range(ROWS) for column in range(COLUMNS))


@dataclass(frozen=True, kw_only=True)
class ThingClaim:
    """What is stated about one thing. Empty or None is "not stated"; any of several is right."""

    nouns: tuple[str, ...] = ()
    cells: tuple[Cell, ...] = ()
    style: Style | None = None
    size: Size | None = None
    facing: Facing | None = None

    def holds(self, thing: Thing) -> bool:
        """Whether everything stated is true of the thing."""
        return (
            (not self.nouns or thing.noun in self.nouns)
            and (not self.cells or thing.cell in self.cells)
            and self.style in (None, thing.style)
            and self.size in (None, thing.size)
            and self.facing in (None, thing.facing)
        )


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a caption states: every thing, how the first two lie, the ground if named, the word.

    `words` lists the words of which any is right; with none there may be no word. `rows` are the rows it may
    stand in, empty where that is free.
    """

    things: tuple[ThingClaim, ...] = ()
    relation: str | None = None
    ground: Ground | None = None
    words: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.relation is not None and (self.relation not in RELATIONS or len(self.things) < 2):
            raise ValueError(
                f"a relation is one of {', '.join(RELATIONS)} between the first two things, "
                f"got {self.relation!r} with {len(self.things)} things"
            )


@dataclass(frozen=True, kw_only=True)
class EditClaim:
    """What the result of an edit has to be: the claim, and the untouched cells as they are in the source."""

    source: Scene
    claim: Claim
    untouched: frozenset[Cell]


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """Whether a scene is as stated; where it is not, the first reason found, else an empty reason."""

    is_right: bool
    reason: str = ""


def related(first: Thing, second: Thing, relation: str) -> bool:
    """Whether the first thing's cell lies in that direction of the second's, in whatever row or column."""
    row, column = RELATIONS[relation]
    if row:
        return (first.cell[0] - second.cell[0]) * row > 0
    return (first.cell[1] - second.cell[1]) * column > 0


def holds(claim: Claim | EditClaim, scene: Scene) -> ClaimResult:
    """Whether the scene is as stated, with nothing missing and nothing extra."""
    if isinstance(claim, EditClaim):
        verdict = holds(claim.claim, scene)
        return verdict if not verdict.is_right else _wrong(_touched(claim, scene))
    return _wrong(
        _word_fault(claim, scene.word) or _ground_fault(claim, scene) or _things_fault(claim, scene)
    )


def _wrong(reason: str) -> ClaimResult:
    return ClaimResult(is_right=not reason, reason=reason)


def _word_fault(claim: Claim, word: Word | None) -> str:
    found = None if word is None else word.text
    if not claim.words:
        return f"no word is asked for, but {found} is there" if found else ""
    if found not in claim.words:
        return f"the word should be {' or '.join(claim.words)}, not {found}"
    if claim.rows and word is not None and word.row not in claim.rows:
        return f"the word should stand in row {claim.rows}, not {word.row}"
    return ""


def _ground_fault(claim: Claim, scene: Scene) -> str:
    if claim.ground in (None, scene.ground):
        return ""
    return f"the ground should be {claim.ground}, not {scene.ground}"


def _things_fault(claim: Claim, scene: Scene) -> str:
    if len(scene.things) != len(claim.things):
        return f"there should be {len(claim.things)} things, not {len(scene.things)}"
    is_matched = False
    for order in permutations(scene.things):
        if all(stated.holds(thing) for stated, thing in zip(claim.things, order, strict=True)):
            is_matched = True
            if claim.relation is None or related(order[0], order[1], claim.relation):
                return ""
    if is_matched:
        return f"the first thing should be {claim.relation} the second"
    return "the things are not those stated, or not in the stated cell, style, size or facing"


def _touched(claim: EditClaim, scene: Scene) -> str:
    before, after = contents(claim.source), contents(scene)
    for cell in sorted(claim.untouched):
        if before.get(cell) != after.get(cell):
            return f"cell {cell} should have stayed as it was"
    return ""


def contents(scene: Scene) -> dict[Cell, Thing]:
    """The thing in each cell that has one."""
    return {thing.cell: thing for thing in scene.things}


def changed_cells(source: Scene, target: Scene) -> frozenset[Cell]:
    """Cells whose thing differs between two scenes, and the cells of a word that differs."""
    before, after = contents(source), contents(target)
    changed = {cell for cell in CELLS if before.get(cell) != after.get(cell)}
    if source.word != target.word:
        rows = {word.row for word in (source.word, target.word) if word is not None}
        changed |= {cell for cell in CELLS if cell[0] in rows}
    return frozenset(changed)


def exact_claim(scene: Scene) -> Claim:
    """The claim that holds for this scene only."""
    return Claim(
        things=tuple(thing_claim(thing) for thing in scene.things),
        ground=scene.ground,
        words=() if scene.word is None else (scene.word.text,),
        rows=() if scene.word is None else (scene.word.row,),
    )


def thing_claim(thing: Thing) -> ThingClaim:
    """The claim that holds for this thing only."""
    return ThingClaim(
        nouns=(thing.noun,), cells=(thing.cell,), style=thing.style, size=thing.size, facing=thing.facing
    )


def to_edit_claim(
    source: Scene,
    target: Scene,
    free: Mapping[Cell, ThingClaim] | None = None,
    rows: Sequence[int] = (),
) -> EditClaim:
    """The claim of an edit with this target; `free` gives a weaker claim for the target's thing in a cell.

    `rows` are the rows a new word may take, its own where there are none. Cells that a weaker claim allows
    are touched, for the thing may come to stand in any of them.
    """
    free = free or {}
    exact = exact_claim(target)
    things = tuple(free.get(thing.cell, thing_claim(thing)) for thing in target.things)
    allowed = {cell for stated in free.values() for cell in stated.cells}
    claim = Claim(things=things, ground=exact.ground, words=exact.words, rows=tuple(rows) or exact.rows)
    untouched = frozenset(CELLS) - changed_cells(source, target) - allowed
    return EditClaim(source=source, claim=claim, untouched=untouched)


# JSON, so that a claim can travel with its prompt


def to_json(claim: Claim | EditClaim) -> dict[str, Any]:
    """Plain values that `from_json` turns into an equal claim."""
    values = asdict(claim)
    if "untouched" in values:
        values["untouched"] = sorted(values["untouched"])
    return values


def from_json(values: Mapping[str, Any]) -> Claim | EditClaim:
    """The claim that `to_json` wrote, also after a round through a file; a ValueError where it is none."""
    try:
        if "source" not in values:
            return _claim_from(values)
        return EditClaim(
            source=scene_from_json(values["source"]),
            claim=_claim_from(values["claim"]),
            untouched=frozenset(_cells(values["untouched"])),
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"this is no claim as to_json writes it: {error!r}") from error


def scene_from_json(values: Mapping[str, Any]) -> Scene:
    """The scene whose `dataclasses.asdict` these values are."""
    things = tuple(Thing(**{**thing, "cell": tuple(thing["cell"])}) for thing in values["things"])
    word = None if values["word"] is None else Word(**values["word"])
    return Scene(ground=values["ground"], things=things, word=word)


def _claim_from(values: Mapping[str, Any]) -> Claim:
    things = tuple(
        ThingClaim(**{**thing, "nouns": tuple(thing["nouns"]), "cells": _cells(thing["cells"])})
        for thing in values["things"]
    )
    return Claim(
        **{**values, "things": things, "words": tuple(values["words"]), "rows": tuple(values["rows"])}
    )


def _cells(values: Sequence[Sequence[int]]) -> tuple[Cell, ...]:
    return tuple((row, column) for row, column in values)


__getattr__ = renamed(__name__, {"Verdict": "deepgen.tiny.claims.ClaimResult"})
