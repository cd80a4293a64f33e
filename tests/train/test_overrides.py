"""Fields of a recipe are set from text by their declared types."""

from __future__ import annotations

import pytest

from deepgen.recipes import recipe
from deepgen.train.overrides import override


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("num_steps", "7", 7),
        ("optim.lr", "1e-3", 1e-3),
        ("is_compiled", "yes", True),
        ("padding", "visible", "visible"),
        ("vlm_lora", "none", None),
        ("trackers", "tensorboard,wandb", ("tensorboard", "wandb")),
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
        ("transformer_lora.rank", "4", "'transformer_lora' in 'transformer_lora.rank' is None"),
        ("speed", "1", "no field 'speed' in SFTConfig; known: num_steps"),
    ],
)
def test_other_text_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(recipe("sft"), {name: text})
