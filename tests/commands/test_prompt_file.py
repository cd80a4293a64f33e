"""`generate --file`: rows, resuming, refusals by line, and two processes that draw what one draws."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deepgen.cli import main
from deepgen.commands import prompt_file
from deepgen.commands.prompt_file import read_rows
from deepgen.data.png import read_record
from deepgen.pipeline import DeepGenPipeline


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPGEN_MODEL", raising=False)


@pytest.fixture
def drawn(pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that were really drawn."""
    prompts, call = [], DeepGenPipeline.__call__

    def counted(self: DeepGenPipeline, prompt: str, **options: Any) -> Any:
        prompts.append(prompt)
        return call(self, prompt, **options)

    monkeypatch.setattr(DeepGenPipeline, "__call__", counted)
    monkeypatch.setattr(prompt_file, "load_pipeline", lambda options: pipe)
    return prompts


def write(rows: Sequence[dict[str, Any] | str], path: Path = Path("prompts.jsonl")) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def files(folder: str) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*.*"))}


def test_every_row_is_drawn_as_it_says(drawn: list[str]) -> None:
    Image.new("RGB", (64, 48), "red").save("red.png")
    rows = [
        {"prompt": "a cat"},
        {"prompt": "make it blue", "references": ["red.png"], "seed": 7, "name": "edits/blue.png"},
        {"prompt": "a dog", "size": "96x32", "negative": "fog"},
    ]
    assert main(["generate", "--file", write(rows), "-o", "out", "--seed", "40"]) == 0
    assert sorted(files("out")) == ["000001.png", "000003.png", "edits/blue.png"]
    assert read_record(Path("out/000001.png")).seed == 40
    assert read_record(Path("out/edits/blue.png")).references == ("red.png",)
    record = read_record(Path("out/000003.png"))
    assert (record.seed, record.width, record.height, record.negative_prompt) == (42, 96, 32, "fog")
    assert Image.open("out/edits/blue.png").size == (64, 48)


def test_a_second_run_draws_only_what_is_missing_broken_or_was_asked_anew(drawn: list[str]) -> None:
    rows = [{"prompt": word} for word in ("one", "two", "three", "four")]
    assert main(["generate", "--file", write(rows), "-o", "out"]) == 0
    before = files("out")
    drawn.clear()
    assert main(["generate", "--file", write(rows), "-o", "out"]) == 0
    assert drawn == []
    Path("out/000001.png").unlink()
    Path("out/000002.png").write_bytes(before["000002.png"][:-40])  # half written
    rows[2] = {"prompt": "three", "seed": 99}
    assert main(["generate", "--file", write(rows), "-o", "out"]) == 0
    assert drawn == ["one", "two", "three"]
    after = files("out")
    assert [name for name in before if after[name] != before[name]] == ["000003.png"]


def test_bad_rows_are_named_with_their_line_and_the_others_are_drawn(drawn: list[str], capsys) -> None:
    rows = [
        {"prompt": "a cat"},
        "{broken",
        {"seed": 1},
        {"prompt": "x", "sede": 1},
        {"prompt": "x", "seed": "1"},
        {"prompt": "x", "references": ["nowhere.png"]},
        {"prompt": "x", "name": "../x.png"},
        {"prompt": "x", "name": "000001.png"},
        {"prompt": "x", "size": "63x64"},
        "",
        {"prompt": "a dog"},
    ]
    assert main(["generate", "--file", write(rows), "-o", "out"]) == 1
    said = capsys.readouterr().err
    for line, reason in (
        (2, "not JSON"),
        (3, "the prompt is missing"),
        (4, "unknown field 'sede'; known: prompt, references, negative, seed, size, name"),
        (5, "seed must be int, got '1'"),
        (6, "no such picture: nowhere.png"),
        (7, "name '../x.png' must be a .png below the output folder"),
        (8, "name '000001.png' was given to an earlier line"),
        (9, "size 63x64 (width x height) is not a multiple of"),
    ):
        assert f"prompts.jsonl, line {line}: {reason}" in said
    assert sorted(files("out")) == ["000001.png", "000011.png"]


def test_seeds_go_by_line_so_a_bad_row_moves_none() -> None:
    rows, problems = read_rows(Path(write(["{", {"prompt": "a"}, {"prompt": "b", "seed": 3}])), first_seed=10)
    assert [row.seed for row in rows] == [11, 3]
    assert len(problems) == 1


def test_a_file_and_a_prompt_exclude_each_other(capsys) -> None:
    assert main(["generate", "a cat", "--file", write([{"prompt": "x"}])]) == 2
    assert "--file brings its own prompts" in capsys.readouterr().err


def test_generate_without_a_prompt_or_a_file_asks_for_one(capsys) -> None:
    assert main(["generate"]) == 2
    assert "the prompt is missing; say what to draw" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_draw_what_one_draws_picture_for_picture(tmp_path: Path) -> None:
    rows = [{"prompt": f"a {color} star"} for color in ("red", "blue", "green", "pink", "yellow")]
    command = ["-m", "deepgen", "generate", "--file", write(rows), "--steps", "3", "--device", "cpu"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for words, folder in ((command, "one"), ([*launch, *command], "two")):
        subprocess.run([sys.executable, *words, "-o", folder], check=True, env=environment, timeout=900)
    assert len(files("one")) == 5
    assert files("two") == files("one")
