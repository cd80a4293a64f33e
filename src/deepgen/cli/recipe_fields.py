"""The fields of a recipe as options of `deepgen train run` and `train plan`: `--optim.lr 2e-5`.

Made for the recipe that was typed, from recipe_fields.json, because the configs themselves import torch
(`tools/recipe_fields.py` writes it). Values stay text here; the config that is changed checks them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

_FILE = Path(__file__).with_name("recipe_fields.json")


@cache
def _document() -> dict[str, Any]:
    return json.loads(_FILE.read_text(encoding="utf-8"))


def recipe_names() -> list[str]:
    """All recipes."""
    return list(_document()["recipes"])


def recipe_in(words: Sequence[str]) -> str | None:
    """The recipe that is named among arguments."""
    return next((word for word in words if word in _document()["recipes"]), None)


def with_fields(command: type, recipe: str) -> type:
    """A command that also has the recipe's fields as options; fields it has itself stay its own.

    Args:
        command: a frozen dataclass.
        recipe: one of those in the file.
    """
    about = _document()["recipes"][recipe]
    own = {own.name for own in fields(command)}
    rows = _rows(about["config"], about["values"], "", own)
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


def _rows(part: str, values: Mapping[str, str], prefix: str, own: set[str]) -> list[tuple]:
    """Fields for `make_dataclass`, those of its parts as a dataclass of their own."""
    rows: list[tuple] = []
    for name, about in _document()["parts"][part]["fields"].items():
        if name in own:
            continue
        full = prefix + name
        if "part" in about:
            nested = make_dataclass(
                about["part"], _rows(about["part"], values, f"{full}.", set()), frozen=True, kw_only=True
            )
            nested.__doc__ = _part_title(about, values.get(full) == "none")
            rows.append((name, nested, field(default_factory=nested)))
            continue
        default = values.get(full, about.get("default"))
        hint = "(set by the config)" if default is None else f"(default: {default or 'none given'})"
        note = arg(help=about["about"] or " ", metavar=about["type"], help_behavior_hint=hint)
        rows.append((name, Annotated[str | None, note], None))
    return rows


def _part_title(about: Mapping[str, str], is_off: bool) -> str:
    said = about["about"] or _document()["parts"][about["part"]]["about"]
    return f"{said} Off in this recipe; one of these options switches it on.".strip() if is_off else said
