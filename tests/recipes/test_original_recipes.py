"""docs/original.md lists every setting in which a recipe differs from the original's, held to its facts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepgen.data.mixture_file import read_outline
from deepgen.recipes import recipe
from deepgen.rl.recipe import RLConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import original_recipes  # in tools/, which is no package
from original_facts import facts, mixture, of_stage
from original_settings import NOT_SETTINGS, REINFORCEMENT, STAGES


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str], tuple[str, str]]:
    """(the original, here) by (recipe, setting)."""
    return {(one.recipe, one.setting): (one.original, one.here) for one in original_recipes.deviations()}


def test_the_page_has_the_table() -> None:
    page = original_recipes.PAGE.read_text(encoding="utf-8")
    written = page.split(original_recipes.BEGIN)[1].split(original_recipes.END)[0]
    assert written == original_recipes.table(), "run `python tools/original_recipes.py --write`"


@pytest.mark.parametrize(
    ("name", "settings", "known"),
    [
        ("training", STAGES, of_stage("stage1") | of_stage("stage2")),
        ("rl", REINFORCEMENT, facts("rl")),
    ],
)
def test_every_fact_is_compared_or_is_said_where_else_it_is(name, settings, known) -> None:
    compared = {key for setting in settings for key in setting.keys}
    elsewhere = NOT_SETTINGS[name]
    assert [key for key in compared if key not in known] == []
    unknown = [
        key for key in known if key not in compared and not any(key.startswith(start) for start in elsewhere)
    ]
    assert unknown == []
    unused = [start for start in elsewhere if not any(key.startswith(start) for key in known)]
    assert unused == []


def test_the_published_recipe_of_reinforcement_learning_has_the_originals_data_and_length(rows) -> None:
    differs = {setting for name, setting in rows if name == "rl-published"}
    same = ("supervised data", "supervised samples of a step", "length", "prompts, their weights and rewards")
    assert not differs & {
        *same,
        "EMA",
        "peak rate",
        "share of the supervised loss",
        "solver steps of a rollout",
    }
    config = recipe("rl-published")
    assert isinstance(config, RLConfig)
    assert config.data is not None
    assert config.num_epochs == facts("rl")["train.num_train_epochs"]
    assert read_outline(config.data)[0] == {"generate": 1}
    sources = mixture(config.data)["tasks"]["generate"]["sources"]
    weights = sorted(source["row_weight"] for source in sources.values())
    assert weights == [0.5] * 4 + [1] * 6 + [3] * 3


def test_the_rows_that_a_reader_asks_for_first_are_there(rows) -> None:
    assert rows["sft-24gb", "EMA"] == ("none", "0.9999")
    assert ("sft", "EMA") not in rows
    assert rows["sft", "start"][0] == "stage1 checkpoint"
    assert ("alignment", "start") not in rows
    assert rows["alignment", "saves, every so many optimizer steps"] == ("10,000", "1,000")
    assert rows["sft-24gb", "samples of a run"] == ("102,400,000", "6,399,984")
    assert rows["rl", "length"] == ("10 epochs of the prompts", "500 steps")
    assert rows["rl", "supervised data"][1] == "none"
    for name in ("alignment", "sft"):
        for setting in (
            "length, in optimizer steps",
            "samples of a step",
            "sets of edits",
            "sets of captions",
        ):
            assert (name, setting) not in rows


@pytest.mark.parametrize(
    ("name", "change", "setting"),
    [
        ("alignment", {"num_steps": 7}, "length, in optimizer steps"),
        ("sft", {"ema_decay": 0.5}, "EMA"),
        ("rl-published", {"data": None}, "supervised data"),
        ("rl-published", {"num_epochs": None}, "length"),
    ],
)
def test_a_recipe_that_comes_to_differ_needs_a_reason(
    monkeypatch: pytest.MonkeyPatch, name: str, change: dict[str, Any], setting: str
) -> None:
    monkeypatch.setattr(
        original_recipes, "recipe", lambda asked: replace(recipe(asked), **(change if asked == name else {}))
    )
    with pytest.raises(AssertionError, match=f"^{name} differs in {setting} .* no reason is given"):
        original_recipes.deviations()
