"""Scenes that differ from a right one in one point, for tests that a claim notices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from deepgen.tiny.claims import Claim, EditClaim
from deepgen.tiny.nouns import FACING_NOUNS, NOUNS
from deepgen.tiny.sampling import free_cells, free_rows
from deepgen.tiny.scene import GROUNDS, MOST_THINGS, Scene, Thing, Word

OTHER = {
    "small": "large",
    "large": "small",
    "glossy": "flat",
    "flat": "glossy",
    "left": "right",
    "right": "left",
}


def wrong_scenes(claim: Claim | EditClaim, scene: Scene) -> Iterator[tuple[str, Scene]]:
    """Scenes that break something the claim states, with the name of what was broken."""
    stated = claim.claim if isinstance(claim, EditClaim) else claim
    cells = free_cells(scene)
    if scene.things:
        yield "one thing missing", replace(scene, things=scene.things[1:])
    if cells and len(scene.things) < MOST_THINGS:
        yield (
            "one thing too many",
            replace(scene, things=(*scene.things, Thing(noun=NOUNS[0], cell=cells[0]))),
        )
    allowed = {noun for thing in stated.things for noun in thing.nouns}
    if scene.things and all(thing.nouns for thing in stated.things):
        strange = next(noun for noun in NOUNS if noun not in allowed)
        yield "another noun", _first(scene, noun=strange)
    if stated.ground is not None:
        yield "another ground", replace(scene, ground=next(g for g in GROUNDS if g != scene.ground))
    if scene.word is None and free_rows(scene):
        yield "a word too many", replace(scene, word=Word(text="X", row=free_rows(scene)[0]))
    if scene.word is not None:
        yield "no word", replace(scene, word=None)
        letter = "Q" if scene.word.text[0] != "Q" else "W"
        wrong = replace(scene.word, text=letter + scene.word.text[1:])
        if wrong.text not in stated.words:
            yield "one letter wrong", replace(scene, word=wrong)
        if stated.rows and free_rows(scene) and free_rows(scene)[0] not in stated.rows:
            yield "another row", replace(scene, word=replace(scene.word, row=free_rows(scene)[0]))
    for name in ("size", "style", "facing"):
        is_stated = bool(stated.things) and all(getattr(thing, name) for thing in stated.things)
        if scene.things and is_stated and (name != "facing" or scene.things[0].noun in FACING_NOUNS):
            yield f"another {name}", _first(scene, **{name: OTHER[getattr(scene.things[0], name)]})
    places = {cell for thing in stated.things for cell in thing.cells}
    outside = [cell for cell in cells if cell not in places]
    if outside and all(thing.cells for thing in stated.things) and scene.things:
        yield "another cell", _first(scene, cell=outside[0])
    if stated.relation is not None:
        first, second = scene.things
        turned = (replace(first, cell=second.cell), replace(second, cell=first.cell))
        yield "the relation reversed", replace(scene, things=turned)


def _first(scene: Scene, **changes: object) -> Scene:
    return replace(scene, things=(replace(scene.things[0], **changes), *scene.things[1:]))
