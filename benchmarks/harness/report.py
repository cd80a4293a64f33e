"""The summary of a results folder: the few numbers that say it all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.compare import total
from harness.quality import preset_calls


def read(folder: Path) -> dict[str, Any]:
    """The sections that were measured."""
    return {
        path.stem: json.loads(path.read_text())
        for path in sorted(folder.glob("*.json"))
        if path.stem != "summary"
    }


def summary_of(folder: Path) -> dict[str, Any]:
    """The summary written after the last run."""
    return json.loads((folder / "summary.json").read_text())


def summarize(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """The few numbers that say it all; absent where their section was not measured."""
    found, summary = read(folder), {"machine": facts}
    if images := found.get("compare", {}).get("pictures"):
        summary["t2i_exact_ratio"] = images["t2i"]["ratio"]
        summary["edit_exact_ratio"] = images["edit"]["ratio"]
        for name in ("t2i", "edit"):
            summary[f"{name}_relative_difference"] = found["compare"]["cells"][name]["relative_difference"]
            summary[f"{name}_seconds"] = {path: images[name][path]["total"] for path in ("reference", "ours")}
        # The preset's calls are known without measuring its quality: the ratio needs this section alone.
        both, single = preset_calls()["balanced"]
        summary["balanced_calls"] = [both, single]
        summary["t2i_balanced_ratio"] = balanced_ratio(images["t2i"], both, single)
    if parts := found.get("parts", {}).get("cells"):
        summary["dit_step_mfu"] = parts["DiT step, text to image"]["share"]
        summary["peak_flop_per_second"] = parts["peak"]
    if cells := found.get("quality", {}).get("cells"):
        summary["balanced_error"] = cells["preset balanced"]["error"]
        summary["euler_50_error"] = cells["euler 50"]["error"]
    if growth := found.get("growth", {}).get("cells"):
        summary["largest_excess"] = max(cell["excess"] for cell in growth.values())
    loads = [c for n, c in found.get("startup", {}).get("cells", {}).items() if n.startswith("load")]
    if loads:
        summary["load_peak_over_weights"] = loads[0]["peak_over_weights"]
    return summary


def balanced_ratio(images: dict[str, Any], both: int, single: int = 0) -> float:
    """The original's picture over ours with so many model calls for both branches and for one."""
    ours = total(images["ours"], both, single * images["single_step"])
    return images["reference"]["total"] / ours


def table(summary: dict[str, Any]) -> str:
    """The summary in lines."""
    lines = [f"{name:28}{value:10.4f}" for name, value in summary.items() if isinstance(value, float)]
    if "t2i_balanced_ratio" in summary and "balanced_error" not in summary:
        lines.append(
            "balanced_error              not measured: python benchmarks/bench.py --sections quality"
        )
    return "\n".join(lines)
