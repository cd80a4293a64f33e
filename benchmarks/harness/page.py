"""docs/performance.md: tables and plots from the results, between the marks in the page.

The words of the page are written by hand; what stands between `<!-- bench:NAME -->` and `<!-- /bench -->` is
replaced. A section that was not measured says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepgen.extras import missing_extra
from harness.growth import AXES
from harness.report import read, summary_of

NOT_MEASURED = "Not measured yet: `make bench`, then `python benchmarks/bench.py --write-docs`."


def write_page(folder: Path, docs: Path) -> None:
    """Fill docs/performance.md and draw docs/performance_*.png from the results in `folder`."""
    found, page = read(folder), docs / "performance.md"
    tables: dict[str, Callable[[dict[str, Any]], str]] = {
        "machine": lambda found: _machine(summary_of(folder)),
        "compare": _compare,
        "parts": _parts,
        "growth": _growth,
        "memory": _memory,
        "startup": _startup,
        "quality": _quality,
    }
    text = page.read_text(encoding="utf-8")
    for name, make in tables.items():
        is_there = bool(found.get(name)) or (name == "machine" and (folder / "summary.json").is_file())
        body = make(found) if is_there else NOT_MEASURED
        mark = re.compile(rf"(<!-- bench:{name} -->\n).*?(<!-- /bench -->)", re.DOTALL)
        if not mark.search(text):
            raise ValueError(f"{page} has no mark <!-- bench:{name} --> to write its table at")
        text = mark.sub(lambda match, body=body: f"{match[1]}{body}\n{match[2]}", text)
    page.write_text(text, encoding="utf-8")
    _plots(found, docs)


def _rows(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _machine(summary: dict[str, Any]) -> str:
    facts = summary["machine"]
    words = f"{facts['device']}, {facts['threads']} threads, PyTorch {facts['torch']}."
    peaks = summary.get("peak_flop_per_second", {})
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in peaks.items())
    return f"{words} Matrix product: {rates or 'not measured'}."


def _compare(found: dict[str, Any]) -> str:
    section, rows = found["compare"], []
    for name, title in (("t2i", "text to image"), ("edit", "edit, 1 reference")):
        image = section["pictures"][name]
        for stage in ("condition", "references", "first_step", "step", "decode", "total"):
            theirs, ours = image["reference"][stage], image["ours"][stage]
            if theirs:
                cells = [f"{theirs:.2f} s", f"{ours:.2f} s", f"{theirs / ours:.2f}"]
                rows.append([title, stage.replace("_", " "), *cells])
    steps = section["pictures"]["t2i"]["steps"]
    apart = ", ".join(
        f"{section['cells'][name]['relative_difference']:.1e} ({title})"
        for name, title in (("t2i", "text to image"), ("edit", "edit"))
    )
    note = f"\n\n`total` is a picture of {steps} steps. Relative difference of the latents: {apart}."
    return _rows(["picture", "stage", "original's path", "ours", "ratio"], rows) + note


def _parts(found: dict[str, Any]) -> str:
    cells, ways = found["parts"]["cells"], found["parts"].get("attention")
    table = _rows(
        ["part", "rows", "GFLOP", "seconds", "GFLOP/s", "arithmetic", "share of the peak"],
        [
            [
                name,
                str(cell["rows"]),
                f"{cell['flop'] / 1e9:.1f}",
                f"{cell['seconds']:.3f}",
                f"{cell['flop_per_second'] / 1e9:.1f}",
                cell["arithmetic"],
                f"{cell['share']:.2f}",
            ]
            for name, cell in cells.items()
            if name != "peak"
        ],
    )
    if not ways:
        return table
    times = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in ways.items())
    return f"{table}\n\nJoint attention of two pictures, by its ways (`models/cpu_attention.py`): {times}."


def _growth(found: dict[str, Any]) -> str:
    cells = found["growth"]["cells"]
    table = _rows(
        [
            "what grows",
            "GFLOP",
            "of these attention",
            "seconds",
            "of these attention",
            "seconds per FLOP, least = 1",
            "attention counted by its time",
        ],
        [
            [
                name,
                f"{c['flop'] / 1e9:.1f}",
                f"{c['attention_flop'] / c['flop']:.0%}",
                f"{c['seconds']:.3f}",
                f"{c['attention_seconds'] / c['seconds']:.0%}",
                f"{c['excess']:.2f}",
                f"{c['explained']:.2f}",
            ]
            for name, c in cells.items()
        ],
    )
    table += "\n\n![Cost as work grows](performance_growth.png)"
    over = [name for name, cell in cells.items() if cell["excess"] > 1.15]
    left = [name for name, cell in cells.items() if cell["explained"] > 1.15]
    return (
        f"{table}\n\nMore than 15 % above the count: {', '.join(over) or 'none'}. "
        f"With attention counted by its time: {', '.join(left) or 'none'}."
    )


def _memory(found: dict[str, Any]) -> str:
    section = found["memory"]
    weights = section["weights_bytes"]
    return _rows(
        ["mode", "on top of the weights", "with the weights in bfloat16"],
        [
            [name, f"{c['bytes'] / 1e9:.2f} GB", f"{(c['bytes'] + weights) / 1e9:.1f} GB"]
            for name, c in section["cells"].items()
        ],
    )


def _startup(found: dict[str, Any]) -> str:
    rows = []
    for name, cell in found["startup"]["cells"].items():
        more = ""
        if "weights" in cell:
            rate = cell["bytes_per_second"] / 1e9
            more = f"{cell['weights'] / 1e9:.2f} GB, {rate:.2f} GB/s, peak {cell['peak_over_weights']:.2f} x"
        rows.append([name, f"{cell['seconds']:.2f} s", more])
    return _rows(["what", "time", "weights, rate, peak over weights"], rows)


def _quality(found: dict[str, Any]) -> str:
    section = found["quality"]
    table = _rows(
        ["solver and steps", "model calls", "error, median", "largest", "accuracy"],
        [
            [
                name,
                str(c["calls"]),
                f"{c['error']:.4f}",
                f"{c['largest_error']:.3f}",
                f"{c['accuracy']:.2f}",
            ]
            for name, c in section["cells"].items()
        ],
    )
    table += "\n\n![Error and accuracy against model calls](performance_quality.png)"
    best = section["as_exact_as_euler_50"]
    return (
        f"{table}\n\nThe fewest calls with an error no larger than 50 Euler steps make "
        f"({best['error_of_euler_50']:.4f}): {best['name']}, {best['calls']} calls, "
        f"error {best['error']:.4f}."
    )


def _plots(found: dict[str, Any], docs: Path) -> None:
    if not found.get("growth") and not found.get("quality"):
        return
    try:
        import matplotlib
    except ImportError as error:
        raise missing_extra("the plots need matplotlib", "train", error) from error
    matplotlib.use("Agg")
    if found.get("growth"):
        _plot_growth(found["growth"]["cells"], docs / "performance_growth.png")
    if found.get("quality"):
        _plot_quality(found["quality"]["cells"], docs / "performance_quality.png")


def _plot_growth(cells: dict[str, dict[str, float]], path: Path) -> None:
    """Seconds against FLOP, one line for each thing that grows, beside the count's own line."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for axis in AXES:
        points = sorted((c["flop"], c["seconds"]) for name, c in cells.items() if name.startswith(axis))
        if points:
            axes.loglog(*zip(*points, strict=True), "o-", label=axis)
    least = min(cell["seconds"] / cell["flop"] for cell in cells.values())
    ends = [extreme(cell["flop"] for cell in cells.values()) for extreme in (min, max)]
    axes.loglog(ends, [least * end for end in ends], "k:", label="as the FLOP count")
    axes.set(xlabel="FLOP", ylabel="seconds", title="Cost as work grows")
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot_quality(cells: dict[str, dict[str, float]], path: Path) -> None:
    """Error against model calls by solver, and accuracy beside it."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for solver in dict.fromkeys(name.split()[0] for name in cells):
        own = [c for name, c in cells.items() if name.split()[0] == solver]
        own.sort(key=lambda cell: cell["calls"])
        calls = [cell["calls"] for cell in own]
        left.loglog(calls, [cell["error"] for cell in own], "o-", label=solver)
        right.semilogx(calls, [cell["accuracy"] for cell in own], "o-", label=solver)
    left.axhline(cells["euler 50"]["error"], color="k", ls=":", label="50 Euler steps")
    left.set(xlabel="model calls", ylabel="distance to the 400-step solution")
    right.set(xlabel="model calls", ylabel="share of right pictures", ylim=(0, 1))
    left.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
