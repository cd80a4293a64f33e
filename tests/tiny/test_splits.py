"""Held-out levels: training never yields what is held out, each level yields only itself."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from deepgen.tiny.claims import holds
from deepgen.tiny.reasoning import REASONING_KINDS
from deepgen.tiny.sampling import dictionary
from deepgen.tiny.splits import (
    LEVELS,
    SAMPLERS,
    group_of,
    is_held_out_combination,
    is_held_out_crossing,
    is_held_out_word,
    level_of,
    levels_of,
    levels_with,
    nearest_prompt_answers,
    sample,
    stable_hash,
    weighted_kind,
)
from tiny.mutations import wrong_scenes

ALL_KINDS = [kind for kinds, _ in SAMPLERS.values() for kind in kinds]


@pytest.mark.parametrize("group", SAMPLERS)
def test_training_never_yields_what_is_held_out(group: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(5000):  # 20,000 over the four groups
        origin = sample(rng, weighted_kind(rng, [group], {})).origin
        assert not origin.is_last_wording
        assert not any(is_held_out_combination(*combination) for combination in origin.combinations)
        assert not any(is_held_out_crossing(origin.template, category) for category in origin.categories)
        assert not any(is_held_out_word(word) for word in origin.words)


def test_prompts_of_new_wordings_are_never_training_prompts() -> None:
    rng = np.random.default_rng(2)
    for kind in REASONING_KINDS:
        trained = {sample(rng, kind).text for _ in range(400)}
        assert not trained & {sample(rng, kind, "new wordings").text for _ in range(40)}


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_level_yields_only_itself(kind: str) -> None:
    rng = np.random.default_rng(3)
    found = levels_with(kind)
    assert "trained" in found
    assert "new wordings" in found
    for level in found:
        example = sample(rng, kind, level)
        assert level_of(example) == level
        assert levels_of(example) == (frozenset() if level == "trained" else {level})
        assert holds(example.claim, example.target).is_right
        assert not any(
            holds(example.claim, scene).is_right for _, scene in wrong_scenes(example.claim, example.target)
        )


def test_each_ability_has_every_level_somewhere() -> None:
    for group in ("edit", "reasoning", "reasoning edit"):
        assert {level for kind in SAMPLERS[group][0] for level in levels_with(kind, 200)} == set(LEVELS)


def test_kinds_are_told_apart_by_name() -> None:
    assert len(set(ALL_KINDS)) == len(ALL_KINDS)
    assert group_of("riddle") == "reasoning"


def test_shares_are_as_stated() -> None:
    words = dictionary()
    assert 0.18 < sum(is_held_out_word(word) for word in words) / len(words) < 0.32
    rng = np.random.default_rng(4)
    strings = ["".join(rng.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), 4)) for _ in range(2000)]
    assert 0.1 < sum(is_held_out_word(word) for word in strings) / 2000 < 0.15
    held = sum(is_held_out_combination("riddle", str(i), "") for i in range(2000)) / 2000
    assert 0.1 < held < 0.15


def test_the_split_is_the_same_in_another_process() -> None:
    code = "from deepgen.tiny.splits import stable_hash; print(stable_hash('word', 'CAT'))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) == stable_hash("word", "CAT")


def test_the_baseline_answers_with_the_nearest_training_prompt() -> None:
    rng = np.random.default_rng(5)
    training = [sample(rng, "place") for _ in range(60)]
    assert all(nearest_prompt_answers(training, training))
    # A new combination has another answer than every training prompt of one noun and place.
    held_out = [sample(rng, "place", "new combinations") for _ in range(60)]
    assert not any(nearest_prompt_answers(training, held_out))
    with pytest.raises(ValueError, match="an edit came"):
        nearest_prompt_answers(training, [sample(rng, "move")])
    with pytest.raises(ValueError, match="needs training prompts"):
        nearest_prompt_answers([], training)


def test_a_level_that_a_kind_has_not_is_an_error() -> None:
    rng = np.random.default_rng(6)
    with pytest.raises(ValueError, match="no example of 'single' is of the level 'new crossings'"):
        sample(rng, "single", "new crossings")
    with pytest.raises(ValueError, match="unknown kind 'joke'"):
        sample(rng, "joke")


_FEWER_NOUNS = """
import deepgen.tiny.nouns as nouns
dropped = "umbrella sun moon candle whale snail drum corn rocket pencil glasses peach".split()
nouns.NOUNS = tuple(noun for noun in nouns.NOUNS if noun not in dropped)
import numpy as np
from deepgen.tiny.splits import SAMPLERS, holds
rng = np.random.default_rng(0)
for kinds, sampler in SAMPLERS.values():
    for kind in kinds:
        for example in (sampler(rng, kind) for _ in range(30)):
            assert holds(example.claim, example.target).is_right
            assert all(thing.noun not in dropped for thing in example.target.things)
print(len(SAMPLERS["reasoning edit"][0]))
"""


def test_a_world_of_fewer_nouns_samples_every_kind_but_rain() -> None:
    out = subprocess.run([sys.executable, "-c", _FEWER_NOUNS], capture_output=True, text=True, check=True)
    assert int(out.stdout) == len(SAMPLERS["reasoning edit"][0]) - 1
