"""`deepgen eval`: what is refused before a model is loaded, and a run from the command line to the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepgen.cli.app import main
from deepgen.cli.eval import EvalRun
from deepgen.evaluation.benchmarks import load_benchmark
from evaluation.benchmark_files import write_all


def error_of(capsys, *arguments: str) -> str:
    assert main(["eval", *arguments]) == 2
    return capsys.readouterr().err


def test_what_cannot_work_is_said_before_a_model_is_loaded(tmp_path, capsys):
    data = ["--data", str(tmp_path), "--model", "/no/such/model"]
    assert "known: corebench, cvtg2k, dpg" in error_of(capsys, "run", "nothing", *data)
    assert "name at least one" in error_of(capsys, "run", *data)
    missing = error_of(capsys, "run", "geneval", "wise", *data)
    assert "evaluation_metadata.jsonl is missing" in missing
    assert "cultural_common_sense.json is missing" in missing
    write_all(tmp_path)
    altered = ["--allow-altered-data", "-o", str(tmp_path / "out")]
    assert "--negative-prompt @FILE" in error_of(capsys, "run", "imgedit", *data, *altered)
    assert "needs a judge; give --judge-url" in error_of(capsys, "run", "wise", *data, *altered)
    assert "no variant 'fr'; known: en" in error_of(capsys, "run", "unigenbench:fr", *data)


def test_fetch_says_what_to_get_from_where_and_what_is_wrong(tmp_path, capsys):
    assert main(["eval", "fetch", "geneval", "--data", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "553 rows, from https://github.com/djghosh13/geneval" in said
    assert "geneval: not complete" in said
    write_all(tmp_path)
    assert main(["eval", "fetch", "wise:verified", "--data", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert said.count("is altered") == 3
    assert "wise-legacy" not in said
    assert main(["eval", "fetch", "shapes", "--data", str(tmp_path)]) == 0


@pytest.mark.usefixtures("capsys")
def test_a_run_goes_from_the_command_line_to_a_page(tmp_path):
    output = tmp_path / "run"
    options = ["--limit", "2", "--steps", "1", "--model", "tiny", "-o", str(output)]
    assert main(["eval", "run", "shapes", "shapes:edit", *options]) == 0
    document = json.loads((output / "shapes-edit/result.json").read_text())
    assert document["num_judged"] == 2
    assert document["manifest"]["published_settings"] == ["num_inference_steps"]
    assert len(document["manifest"]["drawing"]["fingerprint"]) == 64
    assert main(["eval", "report", str(output), "-o", str(tmp_path / "page.html"), "--draws", "0"]) == 0
    assert (tmp_path / "page.html").stat().st_size > 2000


@pytest.mark.parametrize(
    ("name", "preset", "steps"),
    [
        ("storybook:text", "fast", None),  # the model's own, or the preset's where these are fewer
        ("shapes", "turbo", 4),
        ("geneval", "exact", 50),
        ("geneval", "fast", 12),
    ],
)
def test_a_preset_replaces_published_steps_and_leaves_the_model_its_own(name, preset, steps):
    settings = EvalRun(names=(name,), preset=preset)._settings(load_benchmark(name))
    assert settings.num_inference_steps == steps


def test_a_published_size_the_model_cannot_draw_becomes_its_own_and_that_is_said_once(
    tmp_path: Path, capsys
) -> None:
    write_all(tmp_path / "data")
    options = ["--data", str(tmp_path / "data"), "-o", str(tmp_path / "out"), "--model", "tiny"]
    options += ["--allow-altered-data", "--draw-only", "--samples", "1", "--limit", "1"]
    assert main(["eval", "run", "geneval", "cvtg2k", "--steps", "1", *options]) == 0
    said = capsys.readouterr().err
    assert said.count("tiny cannot draw the published size 512x512; its own 96x96 is drawn instead") == 1
    manifest = json.loads((tmp_path / "out" / "geneval" / "manifest.json").read_text())
    assert (manifest["drawing"]["settings"]["height"], manifest["drawing"]["settings"]["width"]) == (96, 96)
    assert {"height", "width"} <= set(manifest["published_settings"])
