"""The table of docs/original.md: what our recipes do otherwise than the original's, and why.

`python tools/original_recipes.py` prints it, `--write` puts it into the page. The original's values are those
of tests/recipes/*.json, ours are read from the recipes and their mixtures; a row is written where the two
differ.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from original_facts import ROOT, facts, of_stage, shown
from original_settings import REINFORCEMENT, STAGES

from deepgen.recipes import recipe

PAGE = ROOT / "docs" / "original.md"
BEGIN, END = "<!-- tools/original_recipes.py -->\n", "<!-- end -->"

# Which of the original's a recipe follows.
SUPERVISED = {"alignment": "stage1", "sft": "stage2", "sft-24gb": "stage2"}
REINFORCED = ("rl-published", "rl")


@dataclass(frozen=True)
class Deviation:
    """A row of the table."""

    setting: str
    recipe: str
    original: str
    here: str
    why: str


def deviations() -> list[Deviation]:
    """Everything in which a recipe differs, setting by setting."""
    found = []
    for settings, recipes in (
        (STAGES, {name: of_stage(stage) for name, stage in SUPERVISED.items()}),
        (REINFORCEMENT, {name: facts("rl") for name in REINFORCED}),
    ):
        for setting in settings:
            for name, known in recipes.items():
                there, here = setting.original(known), setting.here(recipe(name))
                if not _same(there, here):
                    why = setting.reason(name)
                    assert why, (
                        f"{name} differs in {setting.name} ({there!r}, {here!r}), and no reason is given"
                    )
                    found.append(Deviation(setting.name, name, shown(there), shown(here), why))
    return found


def _same(there: Any, here: Any) -> bool:
    if isinstance(there, float) and isinstance(here, int | float) and not isinstance(here, bool):
        return abs(there - here) <= 1e-3 * abs(there)  # steps and samples are rounded
    return there == here


def table() -> str:
    """One row for recipes that differ alike."""
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for one in deviations():
        rows.setdefault((one.setting, one.original, one.here, one.why), []).append(f"`{one.recipe}`")
    lines = ["| setting | recipe | the original | here | why |", "|---|---|---|---|---|"]
    lines += [
        f"| {setting} | {', '.join(recipes)} | {there} | {here} | {why} |"
        for (setting, there, here, why), recipes in rows.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the table, or write it into the page."""
    made = table()
    if sys.argv[1:] == ["--write"]:
        text = PAGE.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        PAGE.write_text(before + BEGIN + made + END + rest.split(END, 1)[1], encoding="utf-8")
    else:
        print(made, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
