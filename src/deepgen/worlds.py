"""Worlds: the domain that a small model draws, by the name in its model_index.json.

A model without a name there, as every model of real pictures is, has no world, and nothing is said of its
prompts. A world's own summary lies in its folder (`tiny/about.py`, `shapes/about.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

KEY = "world"  # in model_index.json, and of the pipeline's config
STORYBOOK = "storybook"
SHAPES = "shapes"

# What a page says of a model without a world. The examples ask for what DeepGen is good at: several things in
# their places, letters, a prompt that needs thinking, and edits that keep the rest.
_GENERAL: dict[str, Any] = {
    "description": (
        "Draws pictures of any subject, as a photograph or in other styles, from a description or from "
        "something to work out, and changes pictures as it is told."
    ),
    "vocabulary": {},
    "example_prompts": [
        "a corgi in a red scarf on a snowy street at dusk, photograph",
        'a hand-painted shop sign that says "OPEN LATE"',
        "two green apples to the left of a glass of milk on a wooden table",
        "the animal that wool comes from, as a watercolour",
    ],
    "example_edits": [
        "make it winter",
        "turn it into a pencil drawing",
        "remove the person on the left",
        "replace the sky with a sunset",
    ],
}


def read_world(index: Mapping[str, Any]) -> str | None:
    """The name in a model_index.json; a ValueError where it is no text."""
    name = index.get(KEY)
    if name is not None and not isinstance(name, str):
        raise ValueError(f"{KEY} in model_index.json is {type(name).__name__}, expected a name or null")
    return name or None


def world_of_folder(folder: Path) -> str | None:
    """The world of a saved pipeline; None where it names none, or is no folder of one."""
    path = folder / "model_index.json"
    if not path.is_file():
        return None
    index = json.loads(path.read_text(encoding="utf-8"))
    return read_world(index) if isinstance(index, dict) else None


def prompt_warnings(world: str | None, prompt: str, images: Sequence[Image.Image]) -> list[str]:
    """What a world cannot follow of a prompt, or of an instruction and the images it is about, a line each;
    nothing where there is no world we know.
    """
    if world != STORYBOOK:
        return []
    from deepgen.tiny.preflight import check_prompt

    return [str(warning) for warning in check_prompt(prompt, images=images)]


def unknown_in_captions(world: str | None, captions: Iterable[str]) -> list[tuple[str, str, int]]:
    """(word that a world does not have, the nearest it has, captions with it), the most frequent first;
    nothing where there is no world that knows its words.
    """
    if world != STORYBOOK:
        return []
    from deepgen.tiny.preflight import check_captions

    return check_captions(captions)


def describe(world: str) -> tuple[dict[str, Any], list[str]]:
    """(plain values, lines of text) of what a world knows."""
    if world == STORYBOOK:
        from deepgen.tiny.about import about, about_lines

        return about(), about_lines()
    if world == SHAPES:
        from deepgen.shapes import about as shapes

        return shapes.about(), shapes.about_lines()
    return {"name": world}, [_unknown(world)]


def introduce(world: str | None) -> dict[str, Any]:
    """What a page says of a model, as plain values: `description`, a sentence or two; `vocabulary`, the words
    it knows by group, empty where that is any; `example_prompts` and `example_edits` to try.
    """
    if world is None:
        return _GENERAL
    if world == STORYBOOK:
        from deepgen.tiny.about import introduction

        return introduction()
    if world == SHAPES:
        from deepgen.shapes import about as shapes

        return shapes.introduction()
    text = _unknown(world)
    return {
        "description": f"{text[0].upper()}{text[1:]}.",
        "vocabulary": {},
        "example_prompts": [],
        "example_edits": [],
    }


def _unknown(world: str) -> str:
    return f"draws the world {world!r}, which this version knows nothing about"
