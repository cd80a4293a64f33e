"""Bulk work on a local Ray with two workers: what it makes is what one process makes, and it goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepgen.cli import main
from serve_process import ENVIRONMENT, ROOT

pytest.importorskip("ray")
pytest.importorskip("ray.data")

pytestmark = pytest.mark.slow

RAY = {
    "RAY_AUTH_MODE": "disabled",  # it would write a token into the home of whoever tests
    "RAY_raylet_start_wait_time_s": "300",  # a busy machine is slow, not broken
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": 4}),
}


def bulk(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The example with two workers, in this folder."""
    command = [sys.executable, str(ROOT / "examples/ray_data.py"), *arguments, "--workers", "2"]
    environment = {**ENVIRONMENT, **RAY}
    environment["PYTHONPATH"] = ":".join([environment["PYTHONPATH"], *filter(None, sys.path)])
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=560)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_prompt_file_is_drawn_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    rows = [{"prompt": f"{count} red stars", "num_inference_steps": 2} for count in range(1, 7)]
    write(tmp_path / "prompts.jsonl", [*rows, {"prompt": "a cat", "sise": "64x64"}])
    made = bulk(tmp_path, "draw", "prompts.jsonl", "pictures", "--rows-per-task", "2")
    assert made.returncode == 1, made.stderr
    assert "deepgen: not drawn" in made.stderr
    assert "line 7: unknown" in made.stderr.replace("is ", "")
    pictures = sorted((tmp_path / "pictures").glob("*.png"))
    assert [path.name for path in pictures] == [f"{number:06d}.png" for number in range(1, 7)]
    alone = ["generate", "--file", str(tmp_path / "prompts.jsonl"), "-o", str(tmp_path / "alone")]
    assert main(alone) == 1
    for path in pictures:
        with Image.open(path) as ours, Image.open(tmp_path / "alone" / path.name) as theirs:
            assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1
    pictures[0].unlink()
    pictures[1].write_bytes(pictures[1].read_bytes()[:100])  # as if a worker had been killed
    times = {path: path.stat().st_mtime_ns for path in pictures[2:]}
    write(tmp_path / "prompts.jsonl", rows)
    again = bulk(tmp_path, "draw", "prompts.jsonl", "pictures")
    assert again.returncode == 0, again.stderr
    for path in pictures[:2]:
        with Image.open(path) as ours, Image.open(tmp_path / "alone" / path.name) as theirs:
            assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1
    assert {path: path.stat().st_mtime_ns for path in pictures[2:]} == times


def test_a_data_cache_is_filled_by_all_workers(tmp_path: Path) -> None:
    rows = []
    for number in range(6):
        Image.new("RGB", (96, 96), (40 * number, 80, 160)).save(tmp_path / f"{number}.png")
        rows.append({"task": "generate", "target": f"{number}.png", "text": f"colour {number}"})
    write(tmp_path / "rows.jsonl", rows)
    made = bulk(tmp_path, "cache", "rows.jsonl", "cache", "--shard-size", "2")
    assert made.returncode == 0, made.stderr
    alone = [
        "data",
        "cache",
        str(tmp_path / "rows.jsonl"),
        "-o",
        str(tmp_path / "alone"),
        "--shard-size",
        "2",
    ]
    alone += ["--num-workers", "0"]
    assert main(alone) == 0
    shards = sorted(path.name for path in (tmp_path / "alone").iterdir() if path.suffix == ".safetensors")
    assert len(shards) == 3
    for name in shards:
        assert (tmp_path / "cache" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
