"""What each stage adds to `shapes`: docs/shapes/stages.json as a figure beside it."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "shapes"
LABELS = {
    "stage 1": "stage 1: fresh connector, the rest frozen",
    "stage 2": "stage 2: all parts",
    "shipped": "shipped: stage 0 alone, onto the fixed code",
}
COLORS = ("#9ecae1", "#3182bd", "0.75")


def main() -> None:
    """Bars by kind, one color a stage."""
    scores = json.loads((FOLDER / "stages.json").read_text())
    kinds = list(scores["shipped"]["kinds"])
    figure, axes = plt.subplots(figsize=(10, 3.2), layout="constrained")
    for place, (stage, label) in enumerate(LABELS.items()):
        left = [number + (place - 1) * 0.27 for number in range(len(kinds))]
        heights = [scores[stage]["kinds"][kind] for kind in kinds]
        axes.bar(left, heights, 0.26, color=COLORS[place], label=label)
    axes.set_xticks(range(len(kinds)), [kind.replace("edit ", "edit\n") for kind in kinds], fontsize=7)
    axes.set(ylim=(0, 1), ylabel="accuracy")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, ncol=3, loc="lower left", bbox_to_anchor=(0, 1))
    figure.savefig(FOLDER / "stages.png", dpi=130)


if __name__ == "__main__":
    main()
