"""Plot of a run's curves, from its log.jsonl.

Metrics that share a prefix share a panel: `loss/generate` and `loss/edit` are compared with each other,
`grad_norm/connector` with `grad_norm`. Faint dots are what was logged, lines their running mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepgen.extras import missing_extra

Curve = list[tuple[int, float]]  # (step, value)

# Panels that come first, in this order, with what their axis shows; others follow by name.
_UNITS = {
    "loss": "mean squared error of the velocity",
    "validation": "loss on held-out samples",
    "loss by sigma": "mean squared error of the velocity",
    "evaluation": "reward on fixed prompts",
    "reward": "mean over the rollout",
    "grad_norm": "norm before clipping",
    "lr_factor": "share of the peak rate",
    "images_per_second": "images/s",
    "steps_per_second": "steps/s",
    "mfu": "share of the card's peak",
    "data_wait_share": "share of the time",
}
_LOGARITHMIC = ("loss", "validation", "loss by sigma", "grad_norm")
_SPREAD = 8.0  # largest over smallest value from which their axes are logarithmic
_COLORS = {"all": "0.2", "generate": "C0", "edit": "C1"}  # the same in every panel
_POINTS_PER_WINDOW = 40  # a running mean spans one such part of the curve
_COLUMNS = 3


def plot_run(run_dir: Path, output: Path | None = None) -> Path:
    """Draw the curves of a run, finished or not.

    Args:
        run_dir: a run's folder.
        output: the PNG; run_dir/curves.png when None.

    Raises:
        FileNotFoundError: no log in the folder.
        ValueError: the log holds no metric yet.
        ModuleNotFoundError: matplotlib is not installed.
    """
    log = Path(run_dir) / "log.jsonl"
    if not log.is_file():
        raise FileNotFoundError(f"no log.jsonl in {run_dir}; name the --output folder of a training run")
    panels = group(read_log(log))
    if not panels:
        raise ValueError(f"{log} holds no metric yet; the first line comes after log_every steps")
    output = Path(run_dir) / "curves.png" if output is None else Path(output)
    _draw(panels, Path(run_dir).resolve().name, output)
    return output


def read_log(path: Path) -> dict[str, Curve]:
    """Curves by metric. Where a resumed run repeats a step its later line holds; half a line is skipped."""
    lines: dict[int, dict[str, float]] = {}
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # a kill tore it
            continue
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            continue
        lines[line["step"]] = {
            name: float(value) for name, value in line.items() if name != "step" and _is_number(value)
        }
    curves: dict[str, Curve] = {}
    for step in sorted(lines):
        for name, value in lines[step].items():
            curves.setdefault(name, []).append((step, value))
    return curves


def group(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Panels by title, and in each its curves by label."""
    panels: dict[str, dict[str, Curve]] = {}
    for name, curve in curves.items():
        title, _, label = name.partition("/")
        if title == "loss" and label.startswith("sigma "):
            title, label = "loss by sigma", label.removeprefix("sigma ")
        panels.setdefault(title, {})[label or ("all" if title in ("loss", "grad_norm") else title)] = curve
    known = list(_UNITS)
    order = sorted(panels, key=lambda title: (known.index(title) if title in known else len(known), title))
    return {title: dict(sorted(panels[title].items(), key=_rank)) for title in order}


def smooth(values: Sequence[float]) -> list[float]:
    """Centred running mean; the window shrinks towards the ends, so that no end is dragged along."""
    half = max(1, len(values) // _POINTS_PER_WINDOW)
    result = []
    for index in range(len(values)):
        reach = min(half, index, len(values) - 1 - index)
        window = values[index - reach : index + reach + 1]
        result.append(sum(window) / len(window))
    return result


# --- drawing


def _draw(panels: Mapping[str, Mapping[str, Curve]], name: str, output: Path) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise missing_extra("curves need matplotlib", "train", error) from error
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5.2 * columns, 3.4 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    last = max(step for panel in panels.values() for curve in panel.values() for step, _ in curve)
    figure.suptitle(f"{name}, {last:,} steps", fontweight="bold")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, (title, panel) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, title, panel)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    partial = output.with_name(f".{output.name}")
    figure.savefig(partial, dpi=110, format="png")
    partial.replace(output)


def _draw_panel(axis: Any, title: str, panel: Mapping[str, Curve]) -> None:
    for color, (label, curve) in zip(_colors(title, list(panel)), panel.items(), strict=True):
        steps, values = zip(*curve, strict=True)
        dense = len(values) >= 2 * _POINTS_PER_WINDOW
        axis.plot(steps, values, ".", color=color, alpha=0.25, markersize=3 if dense else 5, linewidth=0)
        axis.plot(steps, smooth(values), color=color, linewidth=1.6, label=label)
    values = [value for curve in panel.values() for _, value in curve]
    if title in _LOGARITHMIC and min(values) > 0 and max(values) / min(values) >= _SPREAD:
        _make_logarithmic(axis)
    elif min(values) >= 0:
        axis.set_ylim(bottom=0)
    axis.set_title(title.replace("_", " "), fontsize=11)
    axis.set_ylabel(_UNITS.get(title, ""), fontsize=8, color="0.35")
    axis.set_xlabel("step", fontsize=8, color="0.35")
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, which="major")
    axis.spines[["top", "right"]].set_visible(False)
    if len(panel) > 1:
        axis.legend(fontsize=8, frameon=False, ncols=math.ceil(len(panel) / 6))


def _make_logarithmic(axis: Any) -> None:
    """With ticks at 1, 2 and 5, written as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _colors(title: str, labels: Sequence[str]) -> list[Any]:
    """Noise levels are ordered, so their colours are; others get distinct ones."""
    from matplotlib import colormaps

    if title == "loss by sigma" or len(labels) > 8:
        return [colormaps["viridis"](0.9 * index / max(1, len(labels) - 1)) for index in range(len(labels))]
    free = (f"C{index}" for index in range(2, 10))
    if len(labels) == 1:
        return ["C0"]
    return [_COLORS[label] if label in _COLORS else next(free) for label in labels]


def _rank(item: tuple[str, Curve]) -> tuple[bool, str]:
    return item[0] != "all", item[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
