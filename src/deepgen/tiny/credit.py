"""Partial credit for pictures of the storybook, for learning from pictures that are wrong.

What counts is `is_right`. The credits tell wrong pictures apart, where a verdict that is nearly always
"wrong" teaches nothing. The right picture scores 1 and a wrong one at most `MOST_OF_WRONG`.

**A claim** has one part for each thing, for the ground, the relation, the word and its row, if stated. Of a
thing's part the noun is one half and what else is stated of it (place, style, size, facing) shares the other;
where only one of the two is stated it is all. Of a word's part, the share of letters that are right in their
place. Things are matched so as to give the most. The sum, less one part for each thing too many, is divided
by the number of parts, and is never below 0. Too many are things or a word that were not asked for, and cells
that show something unknown; an unknown cell in the stead of a thing that is missing costs nothing
more, nor does a row of unknown cells in the stead of a missing word. A picture whose ground is none of the
world's scores 0.

**An edit** is `change * (0.5 + 0.5 * kept)`. `change` is the share of the way from the source to what is
asked, by the credit of the claim in the cells the edit may touch: a picture left as it was scores 0. An
instruction that has nothing to change scores `kept` alone.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

from deepgen.tiny.claims import Claim, EditClaim, ThingClaim, contents, holds, related
from deepgen.tiny.read import Reading
from deepgen.tiny.scene import ROWS, Scene, Thing, Word

MOST_OF_WRONG = 0.95


def is_right(claim: Claim | EditClaim, reading: Reading) -> bool:
    """Whether everything was understood and is as stated, with nothing missing and nothing extra."""
    scene = reading.scene
    return scene is not None and holds(claim, scene).is_right


def credit(claim: Claim | EditClaim, reading: Reading) -> float:
    """1 for the right picture, for a wrong one its parts, in [0, MOST_OF_WRONG]."""
    if is_right(claim, reading):
        return 1.0
    if reading.ground is None:
        return 0.0
    parts = _claim_credit(claim, reading) if isinstance(claim, Claim) else _edit_credit(claim, reading)
    return min(parts, MOST_OF_WRONG)


def change_share(edit: EditClaim, reading: Reading) -> float | None:
    """Share of the way from the source to what is asked, in [0, 1]; None where nothing is to change."""
    claim = _touched_claim(edit)
    before = _claim_credit(claim, _touched_reading(edit, _seen(edit.source)))
    if before == 1:
        return None
    after = _claim_credit(claim, _touched_reading(edit, reading))
    return max(0.0, (after - before) / (1 - before))


def kept_share(edit: EditClaim, reading: Reading) -> float:
    """Share of what an edit should leave alone that is there as it was, less one part for each thing too
    many, in [0, 1].

    Parts are the things in untouched cells, the ground and the word, unless these are the change. Too many
    are things and unknown cells where an untouched cell was empty, and a word where there was none.
    """
    if reading.ground is None:
        return 0.0
    before, after = contents(edit.source), {thing.cell: thing for thing in reading.things}
    parts = [after.get(cell) == thing for cell, thing in before.items() if cell in edit.untouched]
    if edit.claim.ground in (None, edit.source.ground):
        parts.append(reading.ground == edit.source.ground)
    word, num_extra = edit.source.word, 0
    if not _changes_word(edit):
        if word is not None:
            parts.append(reading.word == word)
        num_extra += word is None and reading.word is not None
    shown = {*after, *reading.unknown_cells}
    if word is not None:
        shown = {cell for cell in shown if cell[0] != word.row}
    num_extra += sum(cell in edit.untouched and cell not in before for cell in shown)
    if not parts:
        return float(num_extra == 0)
    return max(0.0, (sum(parts) - num_extra) / len(parts))


def _edit_credit(edit: EditClaim, reading: Reading) -> float:
    change, kept = change_share(edit, reading), kept_share(edit, reading)
    return kept if change is None else change * (0.5 + 0.5 * kept)


# --- a claim


def _claim_credit(claim: Claim, reading: Reading) -> float:
    """The parts of a claim that hold, less what is too many, in [0, 1]."""
    found: list[Thing | None] = list(reading.things)
    num_missing = max(0, len(claim.things) - len(found))
    padded = [*found, *[None] * num_missing]
    total = max(
        sum(_thing_credit(stated, thing) for stated, thing in zip(claim.things, order, strict=True))
        + _relation_credit(claim, order)
        for order in permutations(padded, len(claim.things))
    )
    num_parts = len(claim.things) + (claim.relation is not None)
    if claim.ground is not None:
        total, num_parts = total + (reading.ground == claim.ground), num_parts + 1
    if claim.words:
        total, num_parts = total + _word_credit(claim.words, reading.word), num_parts + 1
    if claim.words and claim.rows:
        stands = reading.word is not None and reading.word.row in claim.rows
        total, num_parts = total + stands, num_parts + 1
    num_extra = max(0, len(found) - len(claim.things)) + (not claim.words and reading.word is not None)
    num_extra += max(0, _num_unknown(claim, reading) - num_missing)
    if not num_parts:
        return float(num_extra == 0)
    return max(0.0, (total - num_extra) / num_parts)


def _thing_credit(stated: ThingClaim, thing: Thing | None) -> float:
    if thing is None:
        return 0.0
    rest = []
    if stated.cells:
        rest.append(thing.cell in stated.cells)
    for name in ("style", "size", "facing"):
        if (wanted := getattr(stated, name)) is not None:
            rest.append(getattr(thing, name) == wanted)
    is_noun = not stated.nouns or thing.noun in stated.nouns
    if not rest:
        return float(is_noun)
    share = sum(rest) / len(rest)
    return share if not stated.nouns else (is_noun + share) / 2


def _relation_credit(claim: Claim, order: tuple[Thing | None, ...]) -> float:
    """Only for the things that are meant: two others side by side are no relation kept."""
    if claim.relation is None:
        return 0.0
    first, second = order[:2]
    if first is None or second is None:
        return 0.0
    is_meant = claim.things[0].holds(first) and claim.things[1].holds(second)
    return float(is_meant and related(first, second, claim.relation))


def _word_credit(words: tuple[str, ...], found: Word | None) -> float:
    """Share of letters that are right in their place, of the word it is nearest to."""
    if found is None:
        return 0.0
    return max(
        sum(a == b for a, b in zip(word, found.text, strict=False)) / max(len(word), len(found.text))
        for word in words
    )


def _num_unknown(claim: Claim, reading: Reading) -> int:
    """Unknown cells; a row of them counts for nothing where a word is missing that may stand there."""
    rows = [row for row, _ in reading.unknown_cells]
    number = len(rows)
    if claim.words and reading.word is None:
        number -= max((rows.count(row) for row in claim.rows or range(ROWS)), default=0)
    return number


# --- the part of a picture that an edit touches


def _touched_claim(edit: EditClaim) -> Claim:
    """What is claimed beyond what stays: no untouched thing, no ground or word that is as it was."""
    claim, source = edit.claim, edit.source
    things = tuple(
        stated
        for stated in claim.things
        if not (len(stated.cells) == 1 and stated.cells[0] in edit.untouched)
    )
    ground = None if claim.ground == source.ground else claim.ground
    is_changed = _changes_word(edit)
    return Claim(
        things=things,
        ground=ground,
        words=claim.words if is_changed else (),
        rows=claim.rows if is_changed else (),
    )


def _touched_reading(edit: EditClaim, reading: Reading) -> Reading:
    """What was read in the cells an edit may touch, and the word if it is the change."""
    word = reading.word if _changes_word(edit) else None
    return replace(
        reading,
        things=tuple(thing for thing in reading.things if thing.cell not in edit.untouched),
        word=word,
        unknown_cells=tuple(cell for cell in reading.unknown_cells if cell not in edit.untouched),
    )


def _changes_word(edit: EditClaim) -> bool:
    """Whether the source's word, or that it has none, is not as claimed."""
    word, claim = edit.source.word, edit.claim
    if word is None or not claim.words:
        return (word is not None) != bool(claim.words)
    return word.text not in claim.words or bool(claim.rows and word.row not in claim.rows)


def _seen(scene: Scene) -> Reading:
    return Reading(ground=scene.ground, things=scene.things, word=scene.word)
