"""The example of docs/evaluation.md: a benchmark that is one class goes through a run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from deepgen.evaluation.runner import RunConfig, run
from deepgen.evaluation.scorers import Scorers
from evaluation.benchmark_files import NoiseModel

PAGE = Path(__file__).parents[2] / "docs/evaluation.md"


def test_the_documented_benchmark_runs(tmp_path):
    section = PAGE.read_text(encoding="utf-8").partition("\n## Add a benchmark\n")[2]
    code = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)[0]
    definition, marker, _ = code.partition("\nbenchmark = Redness\n")
    assert marker, "the class comes first, then the run"
    names = {"__name__": "documented"}
    exec(definition, names)
    redness = names["Redness"]
    config = RunConfig(output_dir=tmp_path, data_dir=tmp_path)
    result = run(redness(), NoiseModel(), redness.settings, config, Scorers())
    assert result["num_judged"] == 2
    assert 0.3 < result["table"]["overall"] < 0.36, "noise has as much red as green and blue"
