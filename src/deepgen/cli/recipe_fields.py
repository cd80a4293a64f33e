"""The fields of a recipe as options of `deepgen train run` and `train plan`: `--optim.lr 2e-5`.

Made for the recipe that was typed, from recipe_fields.json, because the configs themselves import torch
(`tools/recipe_fields.py` writes it); a recipe of one's own (`mine.py:mine`) is run to see its fields. Values
stay text here; the config that is changed checks them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from deepgen.embedded import FORMER_RECIPES
from deepgen.user_files import split_place

_FILE = Path(__file__).with_name("recipe_fields.json")


@cache
def _document() -> dict[str, Any]:
    return json.loads(_FILE.read_text(encoding="utf-8"))


def recipe_names() -> list[str]:
    """All recipes."""
    return list(_document()["recipes"])


def recipe_in(words: Sequence[str]) -> str | None:
    """The recipe that is named among arguments; the first word may also be the place of one's own."""
    named = [FORMER_RECIPES.get(word, word) for word in words]
    known = next((word for word in named if word in _document()["recipes"]), None)
    own = words[0] if words and split_place(words[0]) is not None else None
    return own or known or next((word for word in words[:1] if is_packaged(word)), None)


def is_packaged(name: str) -> bool:
    """Whether an installed package offers a recipe of that name."""
    return any(point.name == name for point in entry_points(group="deepgen.recipes"))


def with_fields(command: type, recipe: str) -> type:
    """A command that also has the recipe's fields as options; fields it has itself stay its own.

    Args:
        command: a frozen dataclass.
        recipe: one of those in the file.
    """
    document = _document_of(recipe)
    about = document["recipes"][recipe]
    own = {own.name for own in fields(command)}
    rows = _rows(document["parts"], about["config"], about["values"], "", own)
    made = make_dataclass(command.__name__, rows, bases=(command,), frozen=True, kw_only=True)
    made.__doc__ = f"{command.__doc__}\n\n{recipe}: {about['about']}"
    return made


def given_fields(command: Any, prefix: str = "", own: Sequence[str] = ()) -> dict[str, str]:
    """Dotted name -> text of the fields that were given.

    Args:
        command: a command made by `with_fields`, parsed.
        prefix: of the dotted names.
        own: fields that are the command's own.
    """
    found: dict[str, str] = {}
    for each in fields(command):
        value = getattr(command, each.name)
        if each.name in own or value is None:
            continue
        if is_dataclass(value):
            found |= given_fields(value, f"{prefix}{each.name}.")
        else:
            found[prefix + each.name] = value
    return found


def _document_of(recipe: str) -> dict[str, Any]:
    if recipe in _document()["recipes"]:
        return _document()
    from deepgen import recipes  # here: configs import torch
    from deepgen.recipes.describe import document

    return document({recipe: recipes.recipe(recipe)})


def _rows(
    parts: Mapping[str, Any], part: str, values: Mapping[str, str], prefix: str, own: set[str]
) -> list[tuple]:
    """Fields for `make_dataclass`, those of its parts as a dataclass of their own."""
    rows: list[tuple] = []
    for name, about in parts[part]["fields"].items():
        if name in own:
            continue
        full = prefix + name
        if "part" in about:
            nested = make_dataclass(
                about["part"],
                _rows(parts, about["part"], values, f"{full}.", set()),
                frozen=True,
                kw_only=True,
            )
            nested.__doc__ = _part_title(parts, about, values.get(full) == "none")
            rows.append((name, nested, field(default_factory=nested)))
            continue
        default = values.get(full, about.get("default"))
        hint = "(set by the config)" if default is None else f"(default: {default or 'none given'})"
        note = arg(help=about["about"] or " ", metavar=about["type"], help_behavior_hint=hint)
        rows.append((name, Annotated[str | None, note], None))
    return rows


def _part_title(parts: Mapping[str, Any], about: Mapping[str, str], is_off: bool) -> str:
    said = about["about"] or parts[about["part"]]["about"]
    return f"{said} Off in this recipe; one of these options switches it on.".strip() if is_off else said
