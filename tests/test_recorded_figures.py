"""Figures in the documentation are those of the recorded runs."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def recorded(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text())


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("relation (trained)", "relation"),
        ("edit move (trained)", "edit move"),
        ("two objects", "two"),
        ("size", "size"),
        ("counting", "counting"),
        ("all properties at once", "all"),
        ("edit recolor", "edit recolor"),
    ],
)
def test_the_table_of_reinforcement_learning_is_that_of_the_recorded_runs(row: str, kind: str) -> None:
    result = recorded("tiny_rl_2026-11-24.json")
    line = re.search(rf"^\| {re.escape(row)} \|(.*)\|$", (ROOT / "docs" / "rl.md").read_text(), re.MULTILINE)
    assert line is not None
    shown = [float(cell) for cell in line[1].split("|")]
    expected = []
    for way in ("as trained", "by default"):
        before = result["before"][way][kind]
        after = statistics.mean(result[run]["after"][way][kind] for run in ("ours-0", "ours-1", "ours-2"))
        expected += [100 * before, 100 * (after - before)]
    assert shown == pytest.approx(expected, abs=0.06)


def test_the_ratios_of_the_performance_page_are_those_of_the_recorded_run() -> None:
    summary = recorded("summary.json")
    page = (ROOT / "docs" / "performance.md").read_text()
    for name in ("t2i_exact_ratio", "edit_exact_ratio"):
        assert f"{summary[name]:.2f}" in page


def test_loading_takes_the_weights_and_nothing_more() -> None:
    result = recorded("load_5b_2026-11-24.json")
    page = (ROOT / "docs" / "hardware.md").read_text()
    peak, weights = (result[name] / 1e9 for name in ("peak_bytes_above_start", "weights_bytes"))
    assert f"{peak:.2f} GB at the peak for {weights:.2f} GB of weights" in page
    assert peak < 1.1 * weights
