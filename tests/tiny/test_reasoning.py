"""Reasoning: every prompt comes down to a claim its scene fulfils, and the answers are true."""

from __future__ import annotations

import numpy as np
import pytest

from deepgen.tiny.claims import Claim, holds
from deepgen.tiny.facts import load_facts
from deepgen.tiny.nouns import FACING_NOUNS
from deepgen.tiny.reasoning import REASONING_KINDS, sample_reasoning
from deepgen.tiny.reasoning_edits import REASONING_EDIT_KINDS, sample_reasoning_edit
from deepgen.tiny.sampling import is_short
from tiny.mutations import wrong_scenes


@pytest.mark.parametrize("kind", REASONING_KINDS)
def test_an_answer_fulfils_the_claim_and_a_wrong_answer_does_not(kind: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(120):
        example = sample_reasoning(rng, kind)
        assert example.direct
        assert example.direct != example.text
        assert "{" not in example.text
        assert holds(example.claim, example.target).is_right, example
        wrong = list(wrong_scenes(example.claim, example.target))
        assert len(wrong) >= 2
        for name, scene in wrong:
            assert not holds(example.claim, scene).is_right, (name, example)


@pytest.mark.parametrize("kind", REASONING_EDIT_KINDS)
def test_a_reasoning_edit_changes_the_picture_as_claimed(kind: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        edit = sample_reasoning_edit(rng, kind)
        assert edit.source is not None
        assert edit.direct
        assert "{" not in edit.text
        assert holds(edit.claim, edit.target).is_right, edit
        assert not holds(edit.claim, edit.source).is_right, edit
        for name, scene in wrong_scenes(edit.claim, edit.target):
            assert not holds(edit.claim, scene).is_right, (name, edit)


def _words(kind: str, template: str) -> list[tuple[str, tuple[str, ...]]]:
    rng = np.random.default_rng(3)
    examples = [sample_reasoning(rng, kind) for _ in range(400)]
    return [
        (e.origin.combinations[0][1], e.claim.words)
        for e in examples
        if e.origin.template == template and isinstance(e.claim, Claim)
    ]


def test_words_are_spelled_backwards_and_sums_are_right() -> None:
    for word, answers in _words("reasoned text", "text backwards"):
        assert answers == (word[::-1],)
    numbers = {name: number for number, name in load_facts().numbers.items()}
    for total, answers in _words("reasoned text", "text sum"):
        assert numbers[answers[0]] == sum(int(part) for part in total.split(" + "))


def test_numbers_come_out_as_the_direct_wording_counts() -> None:
    rng = np.random.default_rng(4)
    counts = ("zero", "one", "two", "three", "four")
    for _ in range(200):
        example = sample_reasoning(rng, "number")
        assert example.direct is not None
        assert isinstance(example.claim, Claim)
        assert counts.index(example.direct.split()[0]) == len(example.claim.things)


def test_the_odd_one_shares_no_category_with_two_of_the_rest() -> None:
    rng, categories = np.random.default_rng(5), load_facts().categories.values()
    for _ in range(100):
        edit = sample_reasoning_edit(rng, "odd one out")
        assert edit.source is not None
        kept = {thing.noun for thing in edit.target.things}
        odd = {thing.noun for thing in edit.source.things} - kept
        assert any(kept <= set(names) for names in categories)
        assert not any(odd & set(names) and len(kept & set(names)) > 1 for names in categories)


def test_the_name_stands_under_the_thing() -> None:
    rng = np.random.default_rng(6)
    for _ in range(50):
        edit = sample_reasoning_edit(rng, "name")
        thing, word = edit.target.things[0], edit.target.word
        assert word is not None
        assert is_short(thing.noun)
        assert word.text == thing.noun.upper()
        assert word.row == thing.cell[0] + 1


def test_a_mirrored_scene_mirrored_again_is_the_scene() -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        edit = sample_reasoning_edit(rng, "mirror scene")
        assert edit.source is not None
        for before, after in zip(edit.source.things, edit.target.things, strict=True):
            assert after.cell == (before.cell[0], 2 - before.cell[1])
            assert (after.facing != before.facing) == (before.noun in FACING_NOUNS)


def test_unknown_kinds_are_named() -> None:
    with pytest.raises(ValueError, match="unknown reasoning kind 'joke'"):
        sample_reasoning(np.random.default_rng(0), "joke")
    with pytest.raises(ValueError, match="unknown reasoning edit 'joke'"):
        sample_reasoning_edit(np.random.default_rng(0), "joke")
