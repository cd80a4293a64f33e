"""The table of docs/hardware.md: what one picture is planned to take, on common cards and with every preset.

`python tools/drawing_plan.py` prints it, `--write` puts it into the page.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepgen.checkpoints.memory import GB, choose, meta_models
from deepgen.cli.options import ImageOptions
from deepgen.cli.planned import NOMINAL, drawing_config
from deepgen.planning.accelerators import accelerator
from deepgen.planning.drawing import DrawingPlan, plan_drawing, said_seconds
from deepgen.sampling.presets import NAMES

PAGE = Path(__file__).parents[1] / "docs" / "hardware.md"
BEGIN, END = "<!-- tools/drawing_plan.py -->\n", "<!-- end -->"

CARDS = (
    *("rtx-3060", "rtx-3090", "rtx-4060", "rtx-4070", "rtx-4080", "rtx-4090", "rtx-5090", "rx-7900-xtx"),
    *("t4", "l4", "a100-80gb", "h100", "m1-16gb", "m2-max", "m4-pro"),
)
SIZES = ("512x512", "1024x1024")


def table() -> str:
    """One row a card: what `--memory auto` chooses with all of its memory free, and seconds of a picture."""
    models, known = meta_models(NOMINAL), {}
    columns = [f"{size.split('x')[0]} {preset}" for size in SIZES for preset in NAMES]
    lines = [_line(["card", "GB", "`--memory auto`", "needs", *columns])]
    lines.append("|---|---:|---|---:|" + "---:|" * len(columns))
    lines += [_line(_row(models, name, known)) for name in CARDS]
    return "\n".join(lines) + "\n"


def _row(models: dict[str, Any], name: str, known: dict[Any, DrawingPlan]) -> list[str]:
    chosen = accelerator(name)
    memory = choose(models, int(chosen.memory_gb * GB), can_offload=chosen.has_own_memory)
    plans: list[DrawingPlan] = []
    for size in SIZES:
        for preset in NAMES:
            key = (memory, chosen.has_own_memory, size, preset)
            if key not in known:
                options = ImageOptions(size=size, preset=preset)
                config = drawing_config(options, models, memory)
                known[key] = plan_drawing(models, config, chosen)
            plans.append(replace(known[key], accelerator=chosen))
    needs = f"{plans[-1].needed.device / GB:.1f}"
    return [name, f"{chosen.memory_gb:.0f}", str(memory), needs, *(said_seconds(p.seconds) for p in plans)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table, or write it into the page."""
    if "--write" not in sys.argv[1:]:
        print(table(), end="")
        return
    head, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(head + BEGIN + table() + END + rest.split(END, 1)[1])


if __name__ == "__main__":
    main()
