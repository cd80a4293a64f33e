"""The fields of every recipe, for `deepgen train run RECIPE --help`: src/deepgen/cli/recipe_fields.json.

    python tools/recipe_fields.py

Configs live beside what they configure and import torch, and help must not. So what help says is written down
here; tests/cli/test_train_command.py fails where the file and the configs differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deepgen.recipes import describe, recipe, recipe_names

FILE = Path(__file__).parents[1] / "src/deepgen/cli/recipe_fields.json"


def document() -> dict[str, Any]:
    """What is written down."""
    return describe.document({name: recipe(name) for name in recipe_names()})


def text() -> str:
    """The file's content."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(FILE)
