"""Curves from logs as training leaves them, torn and repeated lines included."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deepgen.extras import install_hint
from deepgen.training.plot import group, plot_run, read_log, smooth


def write(folder: Path, lines: list[dict[str, Any]], end: str = "") -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + end)
    return path


def line(step: int, **metrics: float) -> dict[str, Any]:
    return {"step": step, **metrics}


def test_every_prefix_gets_a_panel_and_every_metric_a_curve() -> None:
    names = [
        *("data_wait_share", "grad_norm/connector", "loss", "loss/edit", "loss/generate", "grad_norm"),
        *("loss/sigma 0.5-0.75", "loss/sigma 0-0.25", "validation/edit", "mfu", "reward/ocr"),
    ]
    panels = group({name: [(1, 1.0)] for name in names})
    assert {title: list(panel) for title, panel in panels.items()} == {
        "loss": ["all", "edit", "generate"],
        "validation": ["edit"],
        "loss by sigma": ["0-0.25", "0.5-0.75"],
        "grad_norm": ["all", "connector"],
        "mfu": ["mfu"],
        "data_wait_share": ["data_wait_share"],
        "reward": ["ocr"],
    }
    assert list(panels)[:3] == ["loss", "validation", "loss by sigma"]


def test_a_torn_line_is_left_out_wherever_a_kill_left_it(tmp_path: Path) -> None:
    path = write(tmp_path, [line(10, loss=2.0)], end='{"step": 20, "los')
    assert read_log(path) == {"loss": [(10, 2.0)]}
    path.write_text('{"step": 10, "loss": 2.0}\n{"step": 20, "l{"step": 20, "loss": 1.0}\n\x00\x00\n7\n')
    assert read_log(path) == {"loss": [(10, 2.0)]}


def test_a_resumed_run_overwrites_the_steps_it_repeats(tmp_path: Path) -> None:
    lines = [line(10, loss=3.0), line(20, loss=2.5, old=1.0), line(20, loss=2.0), line(30, loss=1.0)]
    assert read_log(write(tmp_path, lines)) == {"loss": [(10, 3.0), (20, 2.0), (30, 1.0)]}


def test_a_loss_that_is_no_number_leaves_a_gap(tmp_path: Path) -> None:
    lines = [line(1, loss=1.0), line(2, loss=float("nan")), line(3, loss=2.0, task="edit", done=True)]
    assert read_log(write(tmp_path, lines)) == {"loss": [(1, 1.0), (3, 2.0)]}


def test_smoothing_keeps_straight_lines_straight() -> None:
    straight = [3.0 - 0.5 * index for index in range(100)]
    assert smooth(straight) == pytest.approx(straight)
    assert smooth([1.0]) == [1.0]


def test_the_picture_is_a_png_of_all_panels(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    lines = [
        line(step, loss=10 / step, grad_norm=0.0, images_per_second=-1.0, **{"loss/edit": 1.0})
        for step in range(1, 200)
    ]
    write(tmp_path, lines)
    path = plot_run(tmp_path)
    assert path == tmp_path / "curves.png"
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > image.height
    assert sorted(file.name for file in tmp_path.iterdir()) == ["curves.png", "log.jsonl"]


def test_a_single_line_can_be_drawn_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write(tmp_path, [line(50, loss=1.0)])
    assert plot_run(tmp_path, tmp_path / "other.png").is_file()


def test_a_folder_without_a_log_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no log\.jsonl in .*--output"):
        plot_run(tmp_path)


def test_a_log_without_metrics_says_when_they_come(tmp_path: Path) -> None:
    write(tmp_path, [line(50)], end="{")
    with pytest.raises(ValueError, match=r"holds no metric yet.*log_every"):
        plot_run(tmp_path)


def test_matplotlib_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [line(50, loss=1.0)])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape(install_hint("train"))):
        plot_run(tmp_path)
