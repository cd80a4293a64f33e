"""Recipes of the user's own, by the place of a function or by an entry point."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from deepgen.registry import Registry
from deepgen.training.config import TrainConfig
from deepgen.user_files import UserFileError, described


def own_recipes(known: Iterable[str]) -> Registry:
    """The registry of recipes that are not the package's; their names are none of the known ones."""
    return Registry("recipe", __name__, (), dict.fromkeys(known, __name__), adapt=_adapted)


def _adapted(place: str, found: Any, digest: str) -> SimpleNamespace:
    """`recipe`, a function that returns a complete config; a fault in it is said with file and line."""
    if not callable(found):
        raise ValueError(f"{place} is {type(found).__name__}; a recipe is a function that returns a config")

    def recipe() -> TrainConfig:
        try:
            config = found()
        except Exception as error:  # whatever the user's code raises is a fault of that file
            raise UserFileError(described(error)) from error
        if not isinstance(config, TrainConfig):
            raise ValueError(
                f"{place} returned {type(config).__name__}; a recipe returns a config that derives from "
                "deepgen.training.config.TrainConfig"
            )
        return config

    return SimpleNamespace(recipe=recipe)
