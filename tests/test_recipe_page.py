"""docs/recipe_fields.md is what the configs say, and their bounds refuse what has no meaning."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from deepgen.recipes import recipe, recipe_names, run
from deepgen.recipes.describe import changed_fields, document
from deepgen.training.overrides import override

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import recipe_page  # noqa: E402  # in tools/, which is no package


def test_the_page_is_that_of_the_configs() -> None:
    assert recipe_page.FILE.read_text(encoding="utf-8") == recipe_page.page(), (
        "configs have changed; run `python tools/recipe_page.py` and `python tools/recipe_fields.py`"
    )


def test_every_field_of_every_recipe_says_what_it_means() -> None:
    found = document({name: recipe(name) for name in recipe_names()})
    silent = [
        f"{part}.{field}"
        for part, about in found["parts"].items()
        for field, row in about["fields"].items()
        if not row["about"]
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("name", "field", "value", "words"),
    [
        ("sft", "ema_decay", "1", "ema_decay must be at least 0 and below 1, got 1.0"),
        ("sft", "num_threads", "0", "num_threads must be at least 1, got 0"),
        ("sft", "seed", "-1", "seed must be at least 0, got -1"),
        ("sft", "optim.eps", "0", "eps must be above 0, got 0.0"),
        ("sft", "optim.betas", "0.9,1", "betas must be at least 0 and below 1"),
        ("sft", "optim.weight_decay", "nan", "weight_decay must be at least 0, got nan"),
        ("shapes-dit", "dropout", "1.5", "dropout must be from 0 to 1, got 1.5"),
        ("shapes-vae", "batch_size", "0", "batch_size must be at least 1, got 0"),
        ("rl", "height", "-512", "height must be at least 1, got -512"),
        ("rl", "panel.cache_size", "-1", "cache_size must be at least 0, got -1"),
        ("rl", "evaluation.num_inference_steps", "0", "num_inference_steps must be at least 1, got 0"),
    ],
)
def test_a_number_without_meaning_is_refused(name: str, field: str, value: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        override(recipe(name), {field: value})


def test_a_run_prints_what_differs_from_its_recipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("deepgen.recipes.train", lambda config, output_dir, **named: SimpleNamespace(step=0))
    run("sft", tmp_path, overrides={"optim.lr": "2e-5", "vlm_lora": "none"})
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"sft -> {tmp_path}"
    assert said[1] == "  optim.lr: 2e-05, in the recipe 5e-05"
    assert said[2].startswith("  vlm_lora: none, in the recipe LoraSettings(rank=64")
    run("sft", tmp_path)
    assert "every field as in the recipe" in capsys.readouterr().out
    assert changed_fields(recipe("sft"), recipe("sft")) == []
