"""The fields of recipes: what each means, what it takes, its default, and what a recipe changes.

For `deepgen train run RECIPE --help`, for docs/recipes.md and for what a run prints when it begins.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

_PACKAGE = Path(__file__).parents[1]


def document(configs: Mapping[str, Any]) -> dict[str, Any]:
    """`parts`: fields of each config class; `recipes`: class of each, and what differs from its defaults.

    Args:
        configs: recipes by name.
    """
    parts: dict[str, Any] = {}
    recipes = {}
    for name, config in configs.items():
        _add(type(config), parts)
        recipes[name] = {
            "config": type(config).__name__,
            "about": _first_sentence(type(config)),
            "values": _differences(config, parts),
        }
    return {"parts": parts, "recipes": recipes}


def _add(config: type, parts: dict[str, Any]) -> None:
    if config.__name__ in parts:
        return
    rows: dict[str, Any] = {}
    parts[config.__name__] = {"about": _first_sentence(config), "fields": rows}
    hints, comments = get_type_hints(config), _comments(config)
    for field in fields(config):
        kinds = get_args(hints[field.name]) or (hints[field.name],)
        part = next((kind for kind in kinds if is_dataclass(kind) and isinstance(kind, type)), None)
        if get_origin(hints[field.name]) is tuple and part is not None:
            continue  # several parts in a row cannot be given as text
        row = {"about": comments.get(field.name, "")}
        if part is not None:
            _add(part, parts)
            row["part"] = part.__name__
        else:
            row["type"] = _type(hints[field.name])
        if field.default is not MISSING and part is None:
            row["default"] = as_text(field.default)
        rows[field.name] = row


def _comments(config: type) -> dict[str, str]:
    """Field -> what is said of it: in the docstring's Attributes, in a comment beside it or above it."""
    found: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if not is_dataclass(base):
            continue
        above: list[str] = []
        for line in inspect.getsource(base).splitlines():
            name = re.match(r"    (\w+): ", line)
            comment = line.partition("  # ")[2] if name else ""
            if name and (comment or above):
                found[name[1]] = comment or " ".join(above)
            is_comment = line.startswith("    # ")
            above = [*above, line[6:]] if is_comment else []
        attributes = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
        for names, said in re.findall(r"^    ([\w, ]+): ((?:.|\n        )+)", attributes, re.MULTILINE):
            found |= dict.fromkeys(re.split(r", ", names), " ".join(said.split()))
    return found


def _differences(config: Any, parts: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted name -> value, where it is not the default of its class."""
    found: dict[str, str] = {}
    for name, row in parts[type(config).__name__]["fields"].items():
        value = getattr(config, name)
        if "part" in row and value is None:
            found[prefix + name] = "none"
        elif "part" in row:
            found |= _differences(value, parts, f"{prefix}{name}.")
        elif as_text(value) != row.get("default"):
            found[prefix + name] = as_text(value)
    return found


def _type(hint: Any) -> str:
    """Such as `INT|none`, `none|zero2|fsdp`, `FLOAT,FLOAT`."""
    if get_origin(hint) is tuple:
        return ",".join("..." if kind is Ellipsis else _type(kind) for kind in get_args(hint))
    if str(get_origin(hint)).endswith("Literal"):
        return "|".join(map(str, get_args(hint)))
    if get_args(hint):
        return "|".join(map(_type, get_args(hint)))
    known = {"NoneType": "none", "str": "TEXT", "bool": "true|false"}
    return known.get(hint.__name__) or hint.__name__.upper()


def as_text(value: Any) -> str:
    """A value as `--set` takes it; files of the package by their place in it."""
    if isinstance(value, tuple):
        return ",".join(map(as_text, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, Path) and _PACKAGE in value.parents:
        return str(value.relative_to(_PACKAGE.parents[1]))
    return str(value)


def _first_sentence(config: type) -> str:
    paragraph = " ".join((config.__doc__ or "").split("\n\n")[0].split())
    return "" if paragraph.startswith(f"{config.__name__}(") else paragraph


def changed_fields(recipe: Any, config: Any, prefix: str = "") -> list[str]:
    """A line for each field of a config that is not as in its recipe:
    `  optim.lr: 0.001, in the recipe 0.0001`.
    """
    lines = []
    for field in fields(config):
        before, now = getattr(recipe, field.name), getattr(config, field.name)
        if before == now:
            continue
        if is_dataclass(now) and type(before) is type(now):
            lines += changed_fields(before, now, f"{prefix}{field.name}.")
        else:
            lines.append(f"  {prefix}{field.name}: {_shown(now)}, in the recipe {_shown(before)}")
    return lines


def _shown(value: Any) -> str:
    return repr(value) if is_dataclass(value) else as_text(value) or "nothing"
