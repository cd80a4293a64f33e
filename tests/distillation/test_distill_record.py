"""The figures of docs/distillation.md are those of the recorded measurement."""

from __future__ import annotations

import json
import statistics
from typing import Any

from loaded_scripts import ROOT, load_script

RECORD = json.loads((ROOT / "benchmarks" / "results" / "distillation.json").read_text())


def benchmark(name: str = "distillation") -> Any:
    return load_script(f"benchmarks/{name}.py")


def test_the_table_of_the_page_is_that_of_the_record() -> None:
    module = benchmark()
    assert json.loads(json.dumps(module.summary(RECORD["accuracy"]))) == RECORD["summary"]
    page = (ROOT / "docs" / "distillation.md").read_text()
    for line in module.table(RECORD).splitlines():
        assert line in page


def test_the_three_ways_measured_with_more_pictures_are_those_of_their_record() -> None:
    module = benchmark()
    record = json.loads((ROOT / "benchmarks" / "results" / "distillation_precise.json").read_text())
    page = (ROOT / "docs" / "distillation.md").read_text()
    assert json.loads(json.dumps(module.summary(record["accuracy"]))) == record["summary"]
    for line in module.kinds_table(record).splitlines():
        assert line in page


def test_the_table_of_reinforcement_learning_is_that_of_its_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "distillation_rl.json").read_text())
    page = (ROOT / "docs" / "distillation.md").read_text()
    for line in benchmark("distillation_rl").table(record).splitlines():
        assert line in page


def test_the_fine_tuned_student_and_the_backgrounds_are_those_of_their_record() -> None:
    record = json.loads((ROOT / "benchmarks/results/distillation_student_2026-11-29.json").read_text())
    page = " ".join((ROOT / "docs" / "distillation.md").read_text().split())
    tuned, grounds = record["fine-tuned student"], record["one thing on a stated background"]
    before, after = tuned["shapes"]["before"], tuned["shapes"]["after"]
    captions, edits = (
        [one[f"{kind}_accuracy"] for one in (before, after)] for kind in ("generation", "edit")
    )
    assert f"captions (128) | {captions[0]:.2f} | {captions[1]:.2f} |" in page
    assert f"edits (56) | {edits[0]:.2f} | {edits[1]:.2f} |" in page
    assert f"mean of four kinds | 0 | {tuned['corner']['alone']:.2f} |" in page
    white = [grounds[name]["white"] for name in ("matched", "regressed", "teacher, every second prompt")]
    assert (
        "it was {:.2f} right, where the regressed student had {:.2f} and the teacher {:.2f}".format(*white)
        in page
    )
    held_out = record["held-out captions with a stated ground"]
    shipped, teacher, alone = (
        held_out[name] for name in ("distilled and reinforced", "teacher", "distilled alone")
    )
    assert f"{shipped['white']:.2f} of those on white are right" in page
    assert f"where the teacher has {teacher['white']:.2f}" in page
    assert f"had brought white down to {alone['white']:.2f}" in page
    others = [one[ground] for one in (shipped, teacher) for ground in ("black", "grey", "brown")]
    assert "{:.2f}, {:.2f} and {:.2f} (teacher {:.2f}, {:.2f}, {:.2f})".format(*others) in page


def test_what_four_passes_reach_is_what_the_record_of_more_pictures_says() -> None:
    summary = json.loads((ROOT / "benchmarks/results/distillation_precise.json").read_text())["summary"]
    teacher = summary["exact 24"]
    shares = {way: row["mean"][0] / teacher["mean"][0] for way, row in summary.items()}
    page = " ".join((ROOT / "docs" / "distillation.md").read_text().split())
    four, two = shares["turbo 4"], shares["turbo 2"]
    assert f"Four passes reach {four:.3f} of the teacher's accuracy at 48, two {two:.3f}" in page
    assert f"Distillation alone reached {shares['turbo 4 distilled alone']:.3f}" in page
    assert f"regression alone {shares['turbo 4 regressed alone']:.3f}" in page
    each = {
        kind: summary["turbo 4"]["kinds"][kind][0] / teacher["kinds"][kind][0] for kind in teacher["kinds"]
    }
    assert four >= 0.97
    assert min(each.values()) >= 0.9
    assert two >= 0.85


def test_exact_drawing_before_and_after_is_that_of_its_record() -> None:
    runs = json.loads((ROOT / "benchmarks/results/exact_before_after_2026-11-29.json").read_text())["runs"]
    page = " ".join((ROOT / "docs" / "performance.md").read_text().split())

    def mean(which: str, key: str) -> float:
        found = [run[key] for run in runs if run["which"] == which]
        return statistics.fmean(one["ours"] if isinstance(one, dict) else one for one in found)

    seconds = {
        name: tuple(mean(which, f"{name}_seconds") for which in ("before", "after"))
        for name in ("t2i", "edit")
    }
    assert "took {:.0f} and {:.0f} s".format(*seconds["t2i"]) in page
    assert "an edit {:.0f} and {:.0f} s".format(*seconds["edit"]) in page
    ratios = [mean(which, f"{name}_exact_ratio") for name in ("t2i", "edit") for which in ("before", "after")]
    assert "that is {:.2f} and {:.2f}, {:.2f} and {:.2f}".format(*ratios) in page
    assert ratios[1] >= ratios[0]
    assert ratios[3] >= ratios[2]
