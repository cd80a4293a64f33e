"""The fields of every recipe, for `deepgen train run RECIPE --help`: src/deepgen/cli/recipe_fields.json.

    python tools/recipe_fields.py

Configs live beside what they configure and import torch, and help must not. So what help says is written down
here; tests/cli/test_train_command.py fails where the file and the configs differ.
"""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from deepgen.recipes import recipe, recipe_names

FILE = Path(__file__).parents[1] / "src/deepgen/cli/recipe_fields.json"


def document() -> dict[str, Any]:
    """`parts`: fields of each config class; `recipes`: class of each, and what differs from its defaults."""
    parts: dict[str, Any] = {}
    recipes = {}
    for name in recipe_names():
        config = recipe(name)
        _add(type(config), parts)
        recipes[name] = {
            "config": type(config).__name__,
            "about": _first_sentence(type(config)),
            "values": _differences(config, parts),
        }
    return {"parts": parts, "recipes": recipes}


def text() -> str:
    """The file's content."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


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
            row["default"] = _text(field.default)
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
        elif _text(value) != row.get("default"):
            found[prefix + name] = _text(value)
    return found


def _type(hint: Any) -> str:
    """Such as `INT|none`, `none|zero2|fsdp`, `FLOAT,FLOAT`."""
    if get_origin(hint) is tuple:
        return ",".join("..." if kind is Ellipsis else _type(kind) for kind in get_args(hint))
    if str(get_origin(hint)).endswith("Literal"):
        return "|".join(map(str, get_args(hint)))
    if get_args(hint):
        return "|".join(map(_type, get_args(hint)))
    return {"NoneType": "none", "str": "TEXT", "bool": "true|false"}.get(hint.__name__, hint.__name__.upper())


def _text(value: Any) -> str:
    """A value as `--set` takes it; files of the package by their place in it."""
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, Path) and FILE.parents[1] in value.parents:
        return str(value.relative_to(FILE.parents[2]))
    return str(value)


def _first_sentence(config: type) -> str:
    paragraph = " ".join((config.__doc__ or "").split("\n\n")[0].split())
    return "" if paragraph.startswith(f"{config.__name__}(") else paragraph


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(FILE)
