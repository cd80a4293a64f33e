"""Fields of a recipe are set from text by their declared types."""

from __future__ import annotations

import pytest

from deepgen.recipes import recipe
from deepgen.training.overrides import override


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("num_steps", "7", 7),
        ("optim.lr", "1e-3", 1e-3),
        ("is_compiled", "yes", True),
        ("padding", "visible", "visible"),
        ("vlm_lora", "none", None),
        ("trackers", "tensorboard,wandb", ("tensorboard", "wandb")),
        ("optim.betas", "0.8,0.9", (0.8, 0.9)),
    ],
)
def test_text_becomes_what_the_field_holds(name: str, text: str, value: object) -> None:
    config = override(recipe("sft"), {name: text})
    for part in name.split("."):
        config = getattr(config, part)
    assert config == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("padding", "left", "padding takes one of hidden, visible, got 'left'"),
        ("is_compiled", "maybe", "is_compiled takes true or false, got 'maybe'"),
        ("num_steps", "many", "num_steps takes int, got 'many'"),
        ("transformer_lora.rank", "4", "train the transformer or a LoRA of it, not both"),
        ("num_steps.rank", "4", "'num_steps' in 'num_steps.rank' is 133333"),
        ("speed", "1", "no field 'speed' in SFTConfig; did you mean seed?"),
        ("xyz", "1", "no field 'xyz' in SFTConfig; known: num_steps"),
        (
            "optim.weight_deacy",
            "1",
            "no field 'optim.weight_deacy' in OptimConfig; did you mean weight_decay?",
        ),
        ("optim.betas", "0.8", "optim.betas takes 2 values with commas between them, got '0.8'"),
        ("optim.betas", "0.8,x", "optim.betas takes float, got 'x'"),
        (
            "optim.groups",
            "a",
            "optim.groups of type .*ParamGroup.* cannot be set from text; change the recipe",
        ),
    ],
)
def test_other_text_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(recipe("sft"), {name: text})


def test_a_part_that_is_off_is_switched_on_by_its_fields() -> None:
    config = override(recipe("lora"), {"vlm_lora.rank": "4"})
    assert config.vlm_lora.rank == 4


def test_changes_that_need_each_other_may_come_in_any_order() -> None:
    changes = {"trains_transformer": "no", "transformer_lora.rank": "4"}
    for order in (changes, dict(reversed(changes.items()))):
        assert override(recipe("sft"), order).transformer_lora.rank == 4


def test_a_part_is_set_whole_or_by_its_fields() -> None:
    with pytest.raises(ValueError, match="set both as a whole"):
        override(recipe("sft"), {"vlm_lora": "none", "vlm_lora.rank": "4"})
