"""Worlds: the domain that a small model draws, by the name in its model_index.json.

A model without a name there, as every model of real pictures is, has no world, and nothing is said of its
prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

KEY = "world"  # in model_index.json, and of the pipeline's config
STORYBOOK = "storybook"


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


def describe(world: str) -> tuple[dict[str, Any], list[str]]:
    """(plain values, lines of text) of what a world knows."""
    if world != STORYBOOK:
        return {"name": world}, [f"draws the world {world!r}, which this version knows nothing about"]
    from deepgen.tiny.about import about, about_lines

    return about(), about_lines()
