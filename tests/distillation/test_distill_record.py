"""The figures of docs/distillation.md are those of the recorded measurement."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RECORD = json.loads((ROOT / "benchmarks" / "results" / "distillation.json").read_text())


def benchmark(name: str = "distillation") -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


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
        "on white {:.2f} right, where the regressed student had {:.2f} and the teacher {:.2f}".format(*white)
        in page
    )
