"""The prepared run on a first card: it keeps to its time and what was measured, and works on a processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import first_gpu  # noqa: E402  # in benchmarks/, which is no package
from first_gpu import GpuStep, collect, run_steps, steps_of, write  # noqa: E402
from memory_table import MODES, difference, told  # noqa: E402


def test_a_step_that_takes_too_long_is_ended_with_its_children_and_later_ones_go_on(tmp_path: Path) -> None:
    forked = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
print("begun", flush=True)
time.sleep(600)
"""
    steps = [
        GpuStep(name="long one", words=("-c", forked), limit_s=2),
        GpuStep(name="failing", words=("-c", "raise SystemExit('no card')"), limit_s=20),
        GpuStep(name="good", words=("-c", "print(1)"), limit_s=20),
    ]
    found = run_steps(steps, tmp_path, time.monotonic() + 100, os.environ)
    assert [(one.state, one.code, one.said) for one in found] == [
        ("ended", None, ""),
        ("failed", 1, "no card"),
        ("done", 0, ""),
    ]
    assert (tmp_path / "long_one.out").read_text() == "begun\n"
    child = int((tmp_path / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_step_without_time_is_left_out_and_one_with_little_gets_what_is_left(tmp_path: Path) -> None:
    slow = GpuStep(name="slow", words=("-c", "import time; time.sleep(600)"), limit_s=600)
    late = GpuStep(name="late", words=("-c", ""), limit_s=600)
    began = time.monotonic()
    found = run_steps([slow, late], tmp_path, began + 1.5, os.environ, least_s=1)
    assert [one.state for one in found] == ["ended", "left out"]
    assert found[1].said == "0 s were left"
    assert time.monotonic() - began < 30


def test_the_limits_of_the_first_three_steps_fit_into_the_time(tmp_path: Path) -> None:
    steps = steps_of("cuda", "full", tmp_path)
    assert [step.name for step in steps] == ["doctor", "bench", "memory table", "growth"]
    assert sum(step.limit_s for step in steps[:3]) <= 12 * 60 - first_gpu.RESERVE_S
    bench = " ".join(steps[1].words)
    assert "--device cuda --size block --shorten 1" in bench


def test_what_a_step_measured_before_it_was_ended_is_in_the_results(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "bench").mkdir(parents=True)
    (work / "bench/parts.json").write_text('{"cells": {"peak": 1}}')
    (work / "bench/compare.json").write_text('{"cells": ')
    (work / "doctor.out").write_text('{"torch": {"devices": [{"hardware": "NVIDIA H200"}]}}')
    (work / "doctor.err").write_text("deepgen: doctor looks at cuda:0\n")
    (work / "doctor.png").write_bytes(b"picture")
    found = collect(work, [], 12)
    path = write(found, work, tmp_path / "out")
    assert path.name == f"first_gpu_nvidia-h200_{found['date'][:10]}.json"
    kept = json.loads(path.read_text())
    assert kept["bench"] == {"parts": {"cells": {"peak": 1}}}
    assert kept["memory_table"] is None
    assert sorted(file.suffix for file in (tmp_path / "out").iterdir()) == [".json", ".log", ".png"]
    assert "doctor looks at cuda:0" in path.with_suffix(".log").read_text()


def test_a_row_of_the_memory_table_is_told_in_a_line() -> None:
    row = {"mode": "8", "plan": "8 bits", "planned_bytes": 4.8e9, "peak_bytes": 4.5e9}
    assert told({**row, "seconds_load": 9.0, "seconds_picture": 2.5}) == (
        "--memory 8: 8 bits; planned 4.8 GB, used 4.5 GB; loaded in 9.0 s, drawn in 2.5 s"
    )
    assert told({"mode": "4", "failed": "nf4 weights need bitsandbytes"}) == (
        "--memory 4: nf4 weights need bitsandbytes"
    )
    assert MODES[0] == "none", "the others' pictures are compared with its"


def test_pictures_of_the_modes_are_compared_with_the_first(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    image = torch.rand(3, 8, 8)
    assert difference(image, tmp_path / "picture.pt") is None
    assert difference(image + 0.25, tmp_path / "picture.pt") == pytest.approx(0.25)


@pytest.mark.slow
def test_the_whole_of_it_runs_on_a_processor(tmp_path: Path) -> None:
    """As a trial before a card is at hand: small sizes, the same programs."""
    words = ["--device", "cpu", "--size", "tiny", "--minutes", "20", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/first_gpu.py"), *words],
        capture_output=True,
        text=True,
        timeout=1300,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr[-2000:].encode("ascii", "replace").decode()
    (path,) = tmp_path.glob("first_gpu_*.json")
    kept = json.loads(path.read_text())
    assert [one["name"] for one in kept["steps"]] == ["doctor", "bench", "memory table", "growth"]
    assert {one["state"] for one in kept["steps"]} <= {"done", "ended"}, kept["steps"]
    assert kept["doctor"]["picture"]["is_right"]
    assert {"compare", "parts", "memory"} <= kept["bench"].keys()
    rows = {row["mode"]: row for row in kept["memory_table"]["rows"]}
    assert rows.keys() == {"none", "16", "8"}
    assert all(row["peak_bytes"] > 0 for row in rows.values())
    assert path.with_suffix(".png").is_file()
