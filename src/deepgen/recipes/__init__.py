"""Complete configurations with names: anything run twice lives here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from deepgen.train.loop import TrainConfig, train
from deepgen.train.overrides import override


def run(
    recipe_name: str, output_dir: Path, resume: bool = False, overrides: Mapping[str, str] | None = None
) -> None:
    """Run a named recipe.

    Args:
        recipe_name: such as `tiny-dit`.
        output_dir: gets the resolved config, the log and checkpoints.
        resume: continue from the newest checkpoint there.
        overrides: dotted field names and their new values as text, such as {"optim.lr": "1e-4"}.
    """
    config = override(recipe(recipe_name), overrides or {})
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(f"{recipe_name} -> {output_dir}\n{config}")
    train(config, Path(output_dir), resume=resume)


def recipe(name: str) -> TrainConfig:
    """The recipe of that name, or a ValueError that lists those there are."""
    from deepgen.recipes import (  # load every part's library, which naming a run should not need
        supervised,
        tiny,
    )

    recipes = {**tiny.RECIPES, **supervised.RECIPES}
    if name not in recipes:
        raise ValueError(f"unknown recipe {name!r}; known: {', '.join(recipes)}")
    return recipes[name]()
