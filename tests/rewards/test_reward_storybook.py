"""The storybook's rewards on pixels: right, wrong, half right, blurred, with an extra thing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from PIL import ImageFilter

from deepgen.rewards.reward import Candidate
from deepgen.rewards.scorers import make_reward
from deepgen.tiny.claims import Claim, ThingClaim, to_edit_claim, to_json
from deepgen.tiny.render import render
from deepgen.tiny.scene import Scene, Thing

CAT, DOG = Thing(noun="cat", cell=(0, 0)), Thing(noun="dog", cell=(2, 2), style="flat")
BEE = Thing(noun="bee", cell=(1, 1))
TWO = Claim(things=(ThingClaim(nouns=("cat",)), ThingClaim(nouns=("dog",))))


def candidate(picture, claim=TWO) -> Candidate:
    image = render(picture) if isinstance(picture, Scene) else picture
    metadata = json.loads(json.dumps({"storybook": to_json(claim), "kind": "two"}))
    return Candidate(image=image, prompt="a cat and a dog", metadata=metadata)


def scores(name: str, *candidates: Candidate, **options) -> list[float | None]:
    return [verdict.score for verdict in make_reward(name, **options)(candidates)]


def test_right_wrong_half_right_blurred_and_with_an_extra_thing() -> None:
    right = Scene(things=(CAT, DOG))
    shown = [
        candidate(right),
        candidate(Scene(ground="pink", things=(BEE,))),
        candidate(Scene(ground="sea", things=(DOG,))),
        candidate(render(right).filter(ImageFilter.GaussianBlur(2.5))),
        candidate(Scene(things=(CAT, DOG, BEE))),
    ]
    assert scores("storybook", *shown) == [1, 0, 0, 0, 0]
    assert scores("storybook", *shown, credit="partial") == [1, 0, 0.5, 0, 0.5]


def test_an_edit_is_judged_by_its_change_and_by_what_it_kept() -> None:
    source = Scene(ground="meadow", things=(CAT, DOG))
    target = replace(source, things=(CAT, replace(BEE, cell=DOG.cell)))
    claim = to_edit_claim(source, target)
    done, undone, moved = (
        candidate(scene, claim)
        for scene in (target, source, replace(target, things=(replace(CAT, cell=(0, 2)), *target.things[1:])))
    )
    assert scores("storybook", done, undone, moved) == [1, 0, 0]
    change, none, half = scores("storybook", done, undone, moved, credit="partial")
    assert (change, none) == (1, 0)
    assert half is not None
    assert 0 < half < 1
    assert scores("storybook_kept", done, undone, moved) == [1, 1, 0]  # its cell is empty, another is not


def test_a_candidate_without_a_claim_or_of_another_size_gets_no_score() -> None:
    right = render(Scene(things=(CAT, DOG)))
    no_claim, rubbish, no_dict, too_large = make_reward("storybook")(
        [
            Candidate(image=right, prompt="x"),
            Candidate(image=right, prompt="x", metadata={"storybook": {"kind": "single"}}),
            Candidate(image=right, prompt="x", metadata={"storybook": "single"}),
            candidate(right.resize((128, 128))),
        ]
    )
    assert (no_claim.score, no_claim.words) == (None, "the candidate has no storybook")
    assert rubbish.score is no_dict.score is too_large.score is None
    assert "no claim as to_json writes it" in rubbish.words
    assert "as claims.to_json writes it" in no_dict.words
    assert "96x96" in too_large.words
    (no_edit,) = make_reward("storybook_kept")([candidate(right)])
    assert no_edit.score is None


def test_its_words_say_what_was_found_and_its_version_how_it_was_scored() -> None:
    (verdict,) = make_reward("storybook")([candidate(Scene(ground="sea", things=(CAT,)))])
    assert verdict.words == "large glossy cat top left on sea"
    versions = {make_reward("storybook", credit=credit).version for credit in ("exact", "partial")}
    assert versions == {"storybook-1-exact", "storybook-1-partial"}
    with pytest.raises(ValueError, match="credit must be exact or partial, got 'some'"):
        make_reward("storybook", credit="some")
