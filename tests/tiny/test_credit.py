"""What a wrong picture of the storybook is worth: always less than the right one, by its parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepgen.tiny.claims import Claim, EditClaim, ThingClaim, exact_claim, to_edit_claim
from deepgen.tiny.credit import MOST_OF_WRONG, change_share, credit, is_right, kept_share
from deepgen.tiny.edits import BAD_EDIT_KINDS
from deepgen.tiny.read import Reading
from deepgen.tiny.rows import EDIT_GROUPS, GROUPS, Group, Selection
from deepgen.tiny.sample import sample_scene
from deepgen.tiny.scene import Scene, Thing, Word

CAT, DOG = Thing(noun="cat", cell=(0, 0)), Thing(noun="dog", cell=(2, 2))
BEE = Thing(noun="bee", cell=(1, 1))


def seen(*things: Thing, word: str = "", row: int = 1, ground="white", unknown=()) -> Reading:
    made = Word(text=word, row=row) if word else None
    return Reading(ground=ground, things=things, word=made, unknown_cells=tuple(unknown))


def nouns(*names: str, **parts) -> Claim:
    return Claim(things=tuple(ThingClaim(nouns=(name,)) for name in names), **parts)


@pytest.mark.parametrize(
    ("claim", "reading", "worth"),
    [
        (nouns("cat", "dog"), seen(CAT, DOG), 1),
        (nouns("cat", "dog"), seen(CAT), 1 / 2),
        (nouns("cat", "dog"), seen(), 0),
        (nouns("cat", "dog"), seen(CAT, BEE), 1 / 2),
        (nouns("cat", "dog"), seen(CAT, DOG, BEE), 1 / 2),
        (nouns("cat"), seen(CAT, DOG), 0),
        (nouns("cat", "dog"), seen(CAT, unknown=[(2, 2)]), 1 / 2),  # as if it were missing
        (nouns("cat", "dog"), seen(CAT, DOG, unknown=[(1, 1)]), 1 / 2),
        (nouns("cat"), seen(CAT, ground=None), 0),
        (nouns("cat", ground="pink"), seen(CAT), 1 / 2),
        (nouns("cat", "dog", relation="above"), seen(CAT, DOG), 1),
        (nouns("dog", "cat", relation="above"), seen(CAT, DOG), 2 / 3),
        (nouns("cat", "bee", relation="above"), seen(CAT, DOG), 1 / 3),
        (nouns(words=("STOP",)), seen(word="STOP"), 1),
        (nouns(words=("STOP",)), seen(word="STEP"), 3 / 4),
        (nouns(words=("STOP",)), seen(word="ST"), 1 / 2),
        (nouns(words=("STOP", "HALT")), seen(word="HALL"), 3 / 4),
        (nouns(words=("STOP",), rows=(0,)), seen(word="STOP"), 1 / 2),
        (nouns("cat", words=("GO",)), seen(CAT, unknown=[(1, 0), (1, 1), (1, 2)]), 1 / 2),
        (nouns("cat"), seen(CAT, word="GO"), 0),
        (Claim(things=(ThingClaim(nouns=("cat",), cells=((0, 1),)),)), seen(CAT), 1 / 2),
        (Claim(things=(ThingClaim(nouns=("cat",), style="flat", size="large"),)), seen(CAT), 3 / 4),
        (Claim(things=(ThingClaim(nouns=("dog",), style="flat", size="large"),)), seen(CAT), 1 / 4),
        (Claim(things=(ThingClaim(nouns=("cat", "bee")),)), seen(BEE), 1),
    ],
)  # fmt: skip
def test_a_claim_is_worth_the_parts_that_hold_less_what_is_too_many(claim, reading, worth) -> None:
    assert credit(claim, reading) == pytest.approx(worth)


def test_an_edit_is_worth_how_far_it_got_and_what_it_kept() -> None:
    source = Scene(things=(CAT, DOG))
    removed = to_edit_claim(source, replace(source, things=(CAT,)))
    assert credit(removed, seen(CAT)) == 1
    assert credit(removed, seen(CAT, DOG)) == 0  # left as it was
    assert credit(removed, seen(DOG)) == 0  # the other one
    assert credit(removed, seen()) == pytest.approx(0.75)  # the cat is gone too, the ground is there
    assert kept_share(removed, seen()) == 1 / 2
    assert kept_share(removed, seen(CAT, BEE)) == 1 / 2
    assert kept_share(removed, seen(CAT, DOG)) == 1

    swapped = replace(DOG, noun="bee")
    put = to_edit_claim(source, replace(source, things=(CAT, swapped)))
    small = replace(swapped, size="small")
    assert 0.5 < credit(put, seen(CAT, small)) < 1  # the right noun in another size
    assert change_share(put, seen(CAT, DOG)) == 0
    assert change_share(put, seen(CAT, swapped)) == 1

    written = to_edit_claim(source, replace(source, word=Word(text="GO", row=1)))
    assert credit(written, seen(CAT, DOG)) == 0
    assert 0 < credit(written, seen(CAT, DOG, word="GA")) < credit(written, seen(CAT, DOG, word="GO")) == 1

    pink = to_edit_claim(source, replace(source, ground="pink"))
    assert credit(pink, seen(CAT, DOG, ground="pink")) == 1
    assert credit(pink, seen(CAT, ground="pink")) == pytest.approx(0.75)


def test_where_nothing_is_to_change_what_was_kept_counts() -> None:
    source = Scene(things=(CAT, DOG))
    nothing = to_edit_claim(source, source)
    assert change_share(nothing, seen(CAT)) is None
    assert credit(nothing, seen(CAT, DOG)) == 1
    assert credit(nothing, seen(CAT)) == pytest.approx(2 / 3)


@pytest.mark.parametrize("group", GROUPS)
def test_every_kind_is_worth_one_on_its_target_and_an_edit_nothing_on_its_source(group: Group) -> None:
    selection = Selection(group=group)
    for index in range(250):
        drawn = selection.example(3, index)
        target = Reading(ground=drawn.target.ground, things=drawn.target.things, word=drawn.target.word)
        assert credit(drawn.claim, target) == 1
        if drawn.source is None:
            continue
        assert isinstance(drawn.claim, EditClaim)
        source = Reading(ground=drawn.source.ground, things=drawn.source.things, word=drawn.source.word)
        assert kept_share(drawn.claim, target) == kept_share(drawn.claim, source) == 1
        if drawn.kind in BAD_EDIT_KINDS:
            assert credit(drawn.claim, source) == 1
        else:
            assert credit(drawn.claim, source) == 0, drawn.text
            assert change_share(drawn.claim, target) == 1


def test_a_wrong_picture_is_never_worth_as_much_as_the_right_one() -> None:
    rng = np.random.default_rng(0)
    selections = [Selection(group=group) for group in (*GROUPS, *EDIT_GROUPS)]
    for index in range(300):
        drawn = selections[index % len(selections)].example(4, index)
        other = sample_scene(rng)
        for scene in (other, replace(drawn.target, ground="night")):
            reading = Reading(ground=scene.ground, things=scene.things, word=scene.word)
            worth = credit(drawn.claim, reading)
            assert 0 <= worth <= 1
            assert (worth == 1) == is_right(drawn.claim, reading)
            assert worth == 1 or worth <= MOST_OF_WRONG
    exact = exact_claim(Scene(things=(CAT, DOG)))
    crowded = seen(*(replace(CAT, cell=(row, column)) for row in range(3) for column in range(3)))
    assert credit(exact, crowded) == 0
