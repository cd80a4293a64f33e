"""Prompts of a run whose model cannot read them."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from deepgen.data.prompts import open_prompts
from deepgen.embedded import embedded_folder
from deepgen.recipes import recipe
from deepgen.rl.prompt_words import unknown_word_warning
from deepgen.training.overrides import override
from deepgen.training.parallel import Processes


@pytest.fixture(scope="module")
def tiny() -> Any:
    return SimpleNamespace(tokenizer=AutoTokenizer.from_pretrained(embedded_folder("shapes") / "tokenizer"))


def warning(tiny: Any, folder: Path, *prompts: str) -> str:
    file = folder / "prompts.txt"
    file.write_text("\n".join(prompts) + "\n")
    mix = open_prompts(file, {"shapes": 1.0})
    return unknown_word_warning(mix, tiny, "shapes", seed=0, num_prompts=50, seconds=60)


def test_words_the_model_cannot_read_are_named_once_a_prompt(tiny: Any, tmp_path: Path) -> None:
    said = warning(tiny, tmp_path, "a red zebra", "a zebra on a white background", "a star")
    assert 'the model cannot read "zebra" (2 prompts)' in said
    assert "Write the prompts in its words" in said


def test_prompts_it_can_read_give_no_warning(tiny: Any, tmp_path: Path) -> None:
    assert warning(tiny, tmp_path, "a red star", "two blue circles") == ""


def test_a_run_says_it_before_the_first_rollout(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a red zebra\n")
    caplog.set_level(logging.WARNING)
    changes = {"prompts": str(file), "rewards": "jpeg=1", "device": "cpu"}
    override(recipe("rl-shapes"), changes).build(Processes("cpu"))
    assert '"zebra" (1 prompt)' in caplog.text


@pytest.mark.parametrize(("steps", "is_said"), [("4", True), ("8", False)])
def test_a_run_that_passes_by_the_models_student_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, steps: str, is_said: bool
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a red star\n")
    caplog.set_level(logging.WARNING)
    changes = {"prompts": str(file), "rewards": "jpeg=1", "device": "cpu", "model": "shapes"}
    override(recipe("rl-shapes-student"), {**changes, "num_inference_steps": steps}).build(Processes("cpu"))
    assert ("export a run of distillation as a folder" in caplog.text) == is_said
