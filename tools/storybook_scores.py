"""The published scores of the small model, from an evaluation of it: `scores.md` and `scores.json`.

    deepgen eval storybook --limit 96 --seeds 3 -o outputs/storybook
    python tools/storybook_scores.py outputs/storybook -o docs/tiny

The table is the one that the evaluation wrote; the record beside it is what tests hold the pages to.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

MODEL = "tiny"
_MADE = ("seed", "num_seeds", "num_prompts_per_kind", "num_steps", "seconds_per_image")


def record(report: dict[str, Any]) -> dict[str, Any]:
    """What is published of a storybook.json: how it was made, and shares by ability, kind and level."""
    parts = {
        part: {
            name: {
                "share": score["share"],
                "trained": score["trained"] and score["trained"]["share"],
                "levels": {level: one["share"] for level, one in score["levels"].items()},
                "kept": score["kept"],
            }
            for name, score in report[part].items()
        }
        for part in ("abilities", "kinds")
    }
    return {"made": {name: report[name] for name in _MADE}, **parts, "twelve edits": report["twelve edits"]}


def main() -> None:
    """Read, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of `deepgen eval storybook`")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/tiny"))
    given = parser.parse_args()
    source = given.folder / "storybook.json"
    if not source.is_file():
        parser.error(f"{source} is not there; name a folder that `deepgen eval storybook` finished")
    report = json.loads(source.read_text())
    published = record(report)
    (given.output / "scores.json").write_text(json.dumps(published, indent=1) + "\n")
    _, _, table = (given.folder / "storybook.md").read_text().partition("\n")
    (given.output / "scores.md").write_text(f"# Scores of {MODEL}\n{table}")
    for name, score in published["abilities"].items():
        print(f"{name:20} {score['share']:.2f}")


if __name__ == "__main__":
    main()
