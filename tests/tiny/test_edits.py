"""Edits: the target fulfils the claim, the source and a changed target do not, the rest is left alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from deepgen.tiny.claims import CELLS, EditClaim, changed_cells, contents, from_json, holds, to_json
from deepgen.tiny.edits import BAD_EDIT_KINDS, EDIT_KINDS, misspelled, put_in, sample_edit
from deepgen.tiny.nouns import FACING_NOUNS
from deepgen.tiny.scene import Word
from tiny.mutations import OTHER, wrong_scenes


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_the_target_fulfils_the_claim_and_neither_the_source_nor_a_changed_target_does(kind: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(120):
        edit = sample_edit(rng, kind)
        assert edit.source is not None
        assert isinstance(edit.claim, EditClaim)
        assert holds(edit.claim, edit.target).is_right, edit
        assert not holds(edit.claim, edit.source).is_right, edit
        for name, scene in wrong_scenes(edit.claim, edit.target):
            assert not holds(edit.claim, scene).is_right, (name, edit)


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_a_thing_that_the_edit_does_not_touch_may_not_change(kind: str) -> None:
    rng = np.random.default_rng(2)
    num_seen = 0
    for _ in range(80):
        edit = sample_edit(rng, kind)
        assert edit.source is not None
        assert isinstance(edit.claim, EditClaim)
        assert not changed_cells(edit.source, edit.target) & edit.claim.untouched
        for thing in edit.target.things:
            if thing.cell in edit.claim.untouched:
                others = {"style": OTHER[thing.style]}
                if thing.noun in FACING_NOUNS:
                    others["facing"] = OTHER[thing.facing]
                for name, other in others.items():
                    changed = put_in(edit.target, thing, replace(thing, **{name: other}))
                    assert not holds(edit.claim, changed).is_right, edit
                num_seen += 1
    assert num_seen > 20 or kind in ("restyle all",)


@pytest.mark.parametrize("kind", BAD_EDIT_KINDS)
def test_an_instruction_that_cannot_be_followed_leaves_the_picture(kind: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(80):
        edit = sample_edit(rng, kind)
        assert edit.source == edit.target
        assert holds(edit.claim, edit.target).is_right
        assert isinstance(edit.claim, EditClaim)
        assert edit.claim.untouched == frozenset(CELLS)
        for name, scene in wrong_scenes(edit.claim, edit.target):
            assert not holds(edit.claim, scene).is_right, (name, edit)


def test_an_addition_without_a_place_may_stand_in_any_free_cell() -> None:
    rng = np.random.default_rng(4)
    num_seen = 0
    while num_seen < 5:
        edit = sample_edit(rng, "add")
        assert isinstance(edit.claim, EditClaim)
        new = edit.target.things[-1]
        cells = edit.claim.claim.things[-1].cells
        if len(cells) > 1:
            num_seen += 1
            for cell in cells:
                assert holds(edit.claim, put_in(edit.target, new, replace(new, cell=cell))).is_right
        else:
            assert cells == (new.cell,)


def test_beside_means_a_cell_that_shares_a_side() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        edit = sample_edit(rng, "add beside")
        new = edit.target.things[-1]
        before = contents(edit.target)
        around = [(new.cell[0] + r, new.cell[1] + c) for r, c in ((0, 1), (0, -1), (1, 0), (-1, 0))]
        assert any(cell in before for cell in around)


def test_a_word_without_a_place_may_stand_in_any_free_row() -> None:
    rng = np.random.default_rng(6)
    for _ in range(200):
        edit = sample_edit(rng, "write")
        assert isinstance(edit.claim, EditClaim)
        assert edit.target.word is not None
        for row in edit.claim.claim.rows:
            moved = replace(edit.target, word=Word(text=edit.target.word.text, row=row))
            assert holds(edit.claim, moved).is_right


@pytest.mark.parametrize("word", ["A", "AA", "NOON", "STOP"])
def test_a_misspelled_word_is_another_word(word: str) -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        wrong = misspelled(rng, word)
        assert wrong != word
        assert 1 <= len(wrong) <= 4


def test_an_edit_claim_survives_json() -> None:
    rng = np.random.default_rng(8)
    for kind in EDIT_KINDS:
        claim = sample_edit(rng, kind).claim
        assert from_json(json.loads(json.dumps(to_json(claim)))) == claim


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="unknown edit kind 'paint'; known: replace"):
        sample_edit(np.random.default_rng(0), "paint")


@pytest.mark.parametrize(("kind", "least", "most"), [("replace", 0.05, 0.25), ("mirror", 0.35, 0.65)])
def test_things_face_right_often_only_where_an_edit_is_about_it(kind: str, least: float, most: float) -> None:
    rng = np.random.default_rng(9)
    edits = [sample_edit(rng, kind) for _ in range(120)]
    things = [thing for edit in edits if edit.source for thing in edit.source.things]
    right = [thing.facing == "right" for thing in things if thing.noun in FACING_NOUNS]
    assert least < np.mean(right) < most
