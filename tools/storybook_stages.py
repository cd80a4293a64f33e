"""What each stage adds to a storybook model: evaluations side by side, as a table, a file and a figure.

    python tools/storybook_stages.py parts=eval0/storybook.json "stage 1=eval1/storybook.json" -o docs/tiny

The evaluations are those of `deepgen eval storybook`, the same prompts and seeds of each; shares are of
held-out prompts, with 95 % intervals over distinct claims.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

_KEPT = ("seed", "num_seeds", "num_prompts_per_kind", "num_steps")
_COLORS = ("0.75", "#9ecae1", "#6baed6", "#2171b5", "#fdae6b", "#e6550d")
_BEGIN, _END = "<!-- tools/storybook_stages.py -->\n", "<!-- end -->"
_WIDTH = 0.84  # of all bars of a kind


def named_file(text: str) -> tuple[str, Path]:
    """NAME=FILE of the command line."""
    name, _, file = text.partition("=")
    if not name or not Path(file).is_file():
        raise argparse.ArgumentTypeError(f"give NAME=FILE, a storybook.json that is there; got {text!r}")
    return name, Path(file)


def read_stages(named: list[tuple[str, Path]]) -> dict[str, dict[str, Any]]:
    """The evaluations by name, cut to what the page tells.

    Raises:
        SystemExit: two of them were not made alike, so that a difference would say nothing.
    """
    stages: dict[str, dict[str, Any]] = {}
    for name, file in named:
        whole = json.loads(file.read_text())
        made = {key: whole[key] for key in _KEPT}
        for other, stage in stages.items():
            if stage["made"] != made:
                raise SystemExit(
                    f"{name} was evaluated with {made}, {other} with {stage['made']}; evaluate alike"
                )
        shares = {
            part: {key: _share(score) for key, score in whole[part].items()}
            for part in ("abilities", "kinds")
        }
        stages[name] = {"made": made, **shares, "twelve edits": whole["twelve edits"]}
    return stages


def _share(score: dict[str, Any]) -> dict[str, Any]:
    return {key: score[key] for key in ("ability", "share", "interval", "num_images", "kept")} | {
        "trained": score["trained"] and score["trained"]["share"]
    }


def table(stages: dict[str, dict[str, Any]], part: str) -> str:
    """A Markdown table: a row an ability or kind, a column a stage."""
    lines = [f"| {'ability' if part == 'abilities' else 'kind'} | {' | '.join(stages)} |"]
    lines.append("|---" * (1 + len(stages)) + "|")
    for key in next(iter(stages.values()))[part]:
        scores = [stage[part][key] for stage in stages.values()]
        lines.append(f"| {key} | {' | '.join(_cell(score) for score in scores)} |")
    return "\n".join(lines)


def write_table(stages: dict[str, dict[str, Any]], page: Path) -> None:
    """Put the abilities' table between the page's marks; a page without them stays as it is."""
    text = page.read_text()
    if _BEGIN not in text:
        return
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}{table(stages, 'abilities')}\n{_END}{after}")


def _cell(score: dict[str, Any]) -> str:
    low, high = score["interval"]
    return f"{score['share']:.2f} ({low:.2f} to {high:.2f})"


def draw(stages: dict[str, dict[str, Any]], file: Path) -> None:
    """Bars by kind, one color a stage, the abilities above one another."""
    first = next(iter(stages.values()))["kinds"]
    abilities = list(dict.fromkeys(score["ability"] for score in first.values()))
    figure, grid = plt.subplots(
        len(abilities), figsize=(11, 2.1 * len(abilities)), layout="constrained", squeeze=False
    )
    rows = grid[:, 0]
    for axes, ability in zip(rows, abilities, strict=True):
        kinds = [kind for kind, score in first.items() if score["ability"] == ability]
        width = _WIDTH / len(stages)
        for place, (name, stage) in enumerate(stages.items()):
            scores = [stage["kinds"][kind] for kind in kinds]
            left = [number - _WIDTH / 2 + (place + 0.5) * width for number in range(len(kinds))]
            heights = [score["share"] for score in scores]
            errors = [[max(0.0, score["share"] - score["interval"][0]) for score in scores],
                      [max(0.0, score["interval"][1] - score["share"]) for score in scores]]  # fmt: skip
            axes.bar(left, heights, 0.95 * width, color=_COLORS[place % len(_COLORS)], label=name)
            axes.errorbar(left, heights, errors, fmt="none", ecolor="0.3", elinewidth=0.6)
        axes.set_xticks(range(len(kinds)), [kind.replace(" ", "\n") for kind in kinds], fontsize=7)
        axes.set(ylim=(0, 1.02), xlim=(-0.6, len(kinds) - 0.4), ylabel=ability)
        axes.spines[["top", "right"]].set_visible(False)
    rows[0].legend(fontsize=8, frameon=False, ncol=len(stages), loc="lower left", bbox_to_anchor=(0, 1))
    figure.savefig(file, dpi=110)


def main() -> None:
    """Read, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="+", metavar="NAME=FILE", type=named_file)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    stages = read_stages(args.stages)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "storybook_stages.json").write_text(json.dumps(stages) + "\n")
    draw(stages, args.output / "storybook_stages.png")
    page = args.output / "README.md"
    if page.is_file():
        write_table(stages, page)
    print(table(stages, "abilities"), table(stages, "kinds"), sep="\n\n")


if __name__ == "__main__":
    main()
