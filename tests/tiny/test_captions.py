"""Captions: the scene fulfils the claim, a changed scene does not, and the English is right."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deepgen.tiny.captions import CAPTION_KINDS, sample_caption
from deepgen.tiny.claims import RELATIONS, Claim, ThingClaim, from_json, holds, to_json
from deepgen.tiny.language import noun_phrase, plural
from deepgen.tiny.sampling import LAYOUT, RELATION_CELLS
from deepgen.tiny.scene import Scene, Thing
from tiny.mutations import wrong_scenes


@pytest.mark.parametrize("kind", CAPTION_KINDS)
def test_a_sampled_scene_fulfils_its_claim_and_a_changed_one_does_not(kind: str) -> None:
    rng = np.random.default_rng(1)
    broken = set()
    for _ in range(150):
        example = sample_caption(rng, kind)
        assert example.kind == kind
        assert example.text
        assert "{" not in example.text
        verdict = holds(example.claim, example.target)
        assert verdict.is_right, example
        assert not verdict.reason
        for name, scene in wrong_scenes(example.claim, example.target):
            verdict = holds(example.claim, scene)
            assert not verdict.is_right, (name, example)
            assert verdict.reason
            broken.add(name)
    assert len(broken) >= 3


def test_every_stated_property_is_broken_by_some_mutation() -> None:
    rng = np.random.default_rng(2)
    broken = {
        name
        for kind in CAPTION_KINDS
        for example in (sample_caption(rng, kind) for _ in range(60))
        for name, _ in wrong_scenes(example.claim, example.target)
    }
    assert {"another noun", "another cell", "another size", "another style", "another ground"} <= broken
    assert {
        "the relation reversed",
        "one letter wrong",
        "another row",
        "a word too many",
        "no word",
    } <= broken


def test_what_is_not_stated_is_free() -> None:
    claim = Claim(things=(ThingClaim(nouns=("cat", "dog")),))
    for noun in ("cat", "dog"):
        scene = Scene(ground="sea", things=(Thing(noun=noun, cell=(2, 1), style="flat", size="small"),))
        assert holds(claim, scene).is_right


@pytest.mark.parametrize("relation", ["left of", "right of", "above", "below"])
def test_a_relation_holds_in_one_direction_only(relation: str) -> None:
    cells = {"left of": (1, 0), "right of": (1, 2), "above": (0, 1), "below": (2, 1)}
    things = (Thing(noun="dog", cell=(1, 1)), Thing(noun="cat", cell=cells[relation]))
    for name in cells:
        claim = Claim(things=(ThingClaim(nouns=("cat",)), ThingClaim(nouns=("dog",))), relation=name)
        assert holds(claim, Scene(things=things)).is_right == (name == relation)


@pytest.mark.parametrize(
    ("noun", "many"),
    [("sheep", "sheep"), ("fish", "fish"), ("cherries", "cherries"), ("glasses", "glasses"),
     ("scissors", "scissors"), ("palm-tree", "palm trees"), ("butterfly", "butterflies"), ("bus", "buses"),
     ("key", "keys"), ("monkey", "monkeys"), ("peach", "peaches"), ("bunny", "bunnies")],
)  # fmt: skip
def test_plurals_are_english(noun: str, many: str) -> None:
    assert plural(noun) == many


def test_articles_are_english() -> None:
    assert noun_phrase("umbrella") == "an umbrella"
    assert noun_phrase("palm-tree") == "a palm tree"
    assert noun_phrase("scissors", ("small",)) == "small scissors"
    assert noun_phrase("owl", ("big",)) == "a big owl"


def test_a_claim_survives_json() -> None:
    rng = np.random.default_rng(3)
    for kind in CAPTION_KINDS:
        claim = sample_caption(rng, kind).claim
        assert from_json(json.loads(json.dumps(to_json(claim)))) == claim
    with pytest.raises(ValueError, match="no claim"):
        from_json({"things": [{"noun": "cat"}]})


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="unknown caption kind 'sonnet'; known: single"):
        sample_caption(np.random.default_rng(0), "sonnet")
    with pytest.raises(ValueError, match="a relation is one of left of"):
        Claim(things=(ThingClaim(),), relation="left of")


@pytest.mark.parametrize("kind", ["two", "three"])
def test_things_stand_in_the_order_in_which_they_are_named(kind: str) -> None:
    rng = np.random.default_rng(4)
    layouts = set()
    for _ in range(60):
        target = sample_caption(rng, kind).target
        cells = tuple(thing.cell for thing in target.things)
        assert list(cells) == sorted(cells)
        layouts.add(cells)
    assert layouts == {LAYOUT[len(cells)]}


def test_every_stated_relation_is_drawn_with_its_own_cells() -> None:
    rng = np.random.default_rng(5)
    found = {}
    for _ in range(200):
        example = sample_caption(rng, "relation")
        found.setdefault(example.claim.relation, set()).add(tuple(t.cell for t in example.target.things))
    assert found == {relation: {cells} for relation, cells in RELATION_CELLS.items()}
    assert set(found) == set(RELATIONS)


@pytest.mark.parametrize("kind", CAPTION_KINDS)
def test_what_nothing_is_said_of_is_drawn_one_way(kind: str) -> None:
    rng = np.random.default_rng(6)
    for _ in range(20):
        example = sample_caption(rng, kind)
        assert isinstance(example.claim, Claim)
        for thing, said in zip(example.target.things, example.claim.things, strict=True):
            assert thing.facing == "left"
            assert thing.style == (said.style or "glossy")
            assert thing.size == (said.size or "large")
