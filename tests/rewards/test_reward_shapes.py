"""The shapes rewards: exact, in parts, and without an opinion where there is nothing to judge."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from deepgen.rewards.reward import Candidate
from deepgen.rewards.scorers import make_reward
from deepgen.shapes.caption import sample_claim, sample_edit
from deepgen.shapes.prompts import row_of
from deepgen.shapes.render import render


def test_the_right_picture_is_worth_one_and_a_wrong_one_nothing() -> None:
    claim, scene = sample_claim(np.random.default_rng(0), "relation", "train")
    _, other = sample_claim(np.random.default_rng(1), "counting", "train")
    metadata = row_of("words", claim).metadata
    candidates = [Candidate(image=render(s), prompt="words", metadata=metadata) for s in (scene, other)]
    assert [verdict.score for verdict in make_reward("shapes")(candidates)] == [1, 0]
    right, wrong = make_reward("shapes", credit="partial")(candidates)
    assert right.score == 1
    assert wrong.score is not None
    assert 0 <= wrong.score < 1


def test_an_edit_is_judged_by_its_target_and_by_what_it_kept() -> None:
    edit = sample_edit(np.random.default_rng(2), "recolor", "train")
    row = row_of("words", edit)
    done, undone, blank = (
        Candidate(image=image, prompt="words", references=row.references, metadata=row.metadata)
        for image in (render(edit.target), render(edit.source), Image.new("RGB", (96, 96), "magenta"))
    )
    candidates = [done, undone, blank]
    assert [v.score for v in make_reward("shapes")(candidates)] == [1, 0, 0]
    assert [v.score for v in make_reward("shapes", credit="partial")(candidates)] == [1, 0, 0]
    assert [v.score for v in make_reward("shapes_kept")(candidates)] == [1, 1, 0]


def test_a_candidate_without_a_claim_or_of_another_size_gets_no_score() -> None:
    claim, scene = sample_claim(np.random.default_rng(0), "single", "train")
    metadata = row_of("words", claim).metadata
    reward = make_reward("shapes")
    no_claim, rubbish, too_large = reward(
        [
            Candidate(image=render(scene), prompt="words"),
            Candidate(image=render(scene), prompt="words", metadata={"shapes": {"kind": "single"}}),
            Candidate(image=render(scene).resize((64, 64)), prompt="words", metadata=metadata),
        ]
    )
    assert (no_claim.score, no_claim.reason) == (None, "the candidate has no shapes")
    assert rubbish.score is None
    assert "no claim or edit" in rubbish.reason
    assert too_large.score is None
    assert "96x96" in too_large.reason
    (no_edit,) = make_reward("shapes_kept")(
        [Candidate(image=render(scene), prompt="words", metadata=metadata)]
    )
    assert no_edit.score is None


def test_everything_wrong_with_a_rewards_options_is_said_at_once() -> None:
    with pytest.raises(ValueError, match="unknown option 'speed'") as caught:
        make_reward("shapes", credit="some", speed=3)
    assert "credit must be exact or partial, got 'some'" in str(caught.value)
    with pytest.raises(ValueError, match=r"unknown reward 'beauty'; known: .*shapes"):
        make_reward("beauty")
