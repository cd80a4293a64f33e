"""Writes docs/recipe_fields.md: every field of every recipe, with meaning, what it takes, default and range.

    python tools/recipe_page.py

Meanings and defaults are those of the configs (deepgen/recipes/describe.py). Ranges are found by trying: a
field gets values below, at and above the usual bounds, and the range is what the recipe's config does not
refuse. So the page says what is checked, and tests/test_recipe_page.py fails where that has changed.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from deepgen import recipes
from deepgen.recipes.describe import document
from deepgen.training.overrides import override

FILE = Path(__file__).parents[1] / "docs/recipe_fields.md"
INTS = ("-1", "0", "1", "2", "4")
FLOATS = ("-1", "0", "0.001", "0.5", "0.999", "1", "1.5", "1000")
# What the values that are taken say, by which of them are; others are listed.
_INT_RANGES = {
    INTS: "any",
    INTS[1:]: "0 or more",
    INTS[2:]: "1 or more",
    INTS[3:]: "2 or more",
}
_FLOAT_RANGES = {
    FLOATS: "any",
    FLOATS[1:]: "0 or more",
    FLOATS[2:]: "above 0",
    FLOATS[5:]: "1 or more",
    FLOATS[1:6]: "0 to 1",
    FLOATS[1:5]: "0 to below 1",
    FLOATS[2:6]: "above 0, to 1",
    FLOATS[2:5]: "between 0 and 1",
}
_WITHIN = "AlignmentConfig"  # whose fields the other published stages have too; these are shown once
HEAD = """\
# Every field of every recipe

Set by `--FIELD VALUE` (with its dots: `--optim.lr 1e-4`), or by `--set FIELD=VALUE`; `deepgen train RECIPE
--help` shows those of one recipe. [Training](training.md) and [reinforcement learning](rl.md) say what the
important ones do. A run prints only what differs from its recipe, and its `config.json` has all.

A range is what a config does not refuse, found by trying values below, at and above the usual bounds; other
fields of the recipe can narrow it. "any" is not checked. Written by `python tools/recipe_page.py`.

"""


def page() -> str:
    """The page."""
    configs = {name: recipes.recipe(name) for name in recipes.recipe_names()}
    found = document(configs)
    homes = _homes(configs, found)
    lines = [HEAD + "| recipe | what | fields | where it differs from their defaults |", "|---|---|---|---|"]
    for name, about in found["recipes"].items():
        changes = ", ".join(f"`{field}={value}`" for field, value in about["values"].items()) or "nowhere"
        kind = about["config"]
        lines.append(f"| `{name}` | {_what(name)} | [{kind}](#{kind.lower()}) | {_cell(changes)} |")
    for part, about in found["parts"].items():
        lines += _section(part, about, found["parts"], homes[part])
    return "\n".join(lines) + "\n"


def _section(part: str, about: dict[str, Any], parts: dict[str, Any], home: tuple[Any, str]) -> list[str]:
    lines = ["", f"## {part}", "", about["about"], ""]
    lines += ["| field | what | takes | default | range |", "|---|---|---|---|---|"]
    shown = {} if part == _WITHIN else parts[_WITHIN]["fields"]
    repeated = [field for field, row in about["fields"].items() if shown.get(field) == row]
    is_within = bool(shown) and all(field in about["fields"] for field in shown)
    for field, row in about["fields"].items():
        if is_within and field in repeated:
            continue
        default = "" if "part" in row else f"`{row['default']}`" if row.get("default") else "none given"
        takes = f"[{row['part']}](#{row['part'].lower()})" if "part" in row else f"`{_cell(row['type'])}`"
        lines.append(
            f"| `{field}` | {_cell(row['about'])} | {takes} | {default} | {_range(row, *home, field)} |"
        )
    if is_within:
        lines += ["", f"All other fields are those of [{_WITHIN}](#{_WITHIN.lower()})."]
    return lines


def _homes(configs: dict[str, Any], found: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Where each part is: a recipe's config and the dotted prefix of the part's fields."""
    homes: dict[str, tuple[Any, str]] = {}

    def walk(config: Any, part: str, prefix: str) -> None:
        homes.setdefault(part, (config, prefix))
        for field, row in found["parts"][part]["fields"].items():
            if "part" in row:
                walk(config, row["part"], f"{prefix}{field}.")

    for name, about in found["recipes"].items():
        walk(configs[name], about["config"], "")
    return homes


def _range(row: dict[str, str], config: Any, prefix: str, field: str) -> str:
    kinds = row.get("type", "").split("|")
    if "FLOAT" in kinds:
        values, names = FLOATS, _FLOAT_RANGES
    elif "INT" in kinds:
        values, names = INTS, _INT_RANGES
    else:
        return ""
    taken = tuple(value for value in values if _is_taken(config, prefix + field, value))
    if taken in names or not taken:
        return names.get(taken, "as other fields allow")
    is_rest = taken == values[values.index(taken[0]) :]
    return f"{taken[0]} or more{'' if is_rest else ', as other fields allow'}"


def _is_taken(config: Any, name: str, value: str) -> bool:
    try:
        override(config, {name: value})
    except ValueError:
        return False
    return True


def _what(name: str) -> str:
    """The first sentence of the recipe's function."""
    for module in recipes.modules():
        if name in module.RECIPES:
            return _cell((inspect.getdoc(module.RECIPES[name]) or "").split("\n\n")[0].replace("\n", " "))
    raise KeyError(name)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
    print(FILE)
