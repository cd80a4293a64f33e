"""The models inside the package, by the names that stand for their folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_ASSETS = Path(__file__).parent / "assets"
# What each is said to know, in the words of the command line.
EMBEDDED: Mapping[str, str] = {
    "tiny": (
        "a storybook: up to four of 87 things (animals, food, plants, vehicles, tools and more) in two "
        "drawing styles on nine grounds, one word of up to four capitals, edits of such pictures, and "
        "riddles about these things (deepgen info tiny lists them)"
    ),
    "shapes": (
        "a world of flat shapes: circle, square, triangle, star, cross and diamond, in red, green, blue, "
        "yellow, purple, orange, cyan or pink, with positions and counts; its edits recolour, remove, add "
        "and move shapes and change the background"
    ),
}
_FORMER = {"storybook": "tiny"}  # for one release
# Recipes of the flat world, by the names they had while its model was `tiny`; for one release, and runs name
# theirs.
FORMER_RECIPES = {f"tiny-{part}": f"shapes-{part}" for part in ("vae", "vlm", "dit")} | {
    "rl-tiny-student": "rl-shapes-student",
    "distill-tiny-matching": "distill-shapes-matching",
}


def is_embedded(model: str | Path) -> bool:
    """Whether this names a model inside the package."""
    return str(model) in EMBEDDED or str(model) in _FORMER


def embedded_name(name: str) -> str:
    """Its name of today; a former one is still understood."""
    return _FORMER.get(name, name)


def embedded_folder(name: str) -> Path:
    """The folder of a model inside the package."""
    return _ASSETS / embedded_name(name)


def model_source(model: str | Path) -> str | Path:
    """The folder behind the name of a model inside the package; anything else as it came."""
    return embedded_folder(str(model)) if is_embedded(model) else model
