"""Extreme names in prompt files: refused by name before anything is drawn, and the other rows are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deepgen.cli import main, prompt_file
from deepgen.cli.prompt_file import read_rows


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(*rows: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(names that are drawn, problems)."""
    Path("p.jsonl").write_text("".join(json.dumps({"prompt": "a", **row}) + "\n" for row in rows))
    found, problems = read_rows(Path("p.jsonl"))
    return [row.name for row in found], problems


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a" * 300 + ".png", "has a part of 304 bytes, more than 200"),
        ("é" * 130 + ".png", "has a part of 264 bytes, more than 200"),
        ("a/" * 3000 + "x.png", "has 6005 bytes, more than 1000"),
        ("x\0y.png", r"holds the control character '\x00'"),
        ("a\nb.png", r"holds the control character '\n'"),
        ("a\x1b[31m.png", r"holds the control character '\x1b'"),
        ("x\u202egnp.png", r"holds the control character '\u202e'"),
        ("half\ud800.png", "is not valid text at character 4"),
        ("..", "must lie below the output folder"),
        ("/abs.png", "must lie below the output folder"),
        ("a/../../x.png", "must lie below the output folder"),
        ("..\\..\\x.png", "must lie below the output folder"),
        ("C:\\x.png", "must lie below the output folder"),
        ("", "the name has no suffix"),
        ("dir/.png", "the name has no suffix"),
        ("x.png ", "is none of them"),
    ],
)
def test_a_name_that_cannot_be_is_its_lines_error_and_the_others_are_drawn(name, reason) -> None:
    names, problems = read({"name": name}, {"name": "fine.png"})
    assert names == ["fine.png"]
    assert len(problems) == 1
    assert problems[0].startswith("p.jsonl, line 1: name")
    assert reason in problems[0]
    assert len(problems[0]) < 400  # of a long name only the beginning is repeated


UNUSUAL = ["猫/é ü.png", "~/x.png", "CON.png", "a?*.png", "./b.png", "deep/" * 60 + "x.png"]


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_names_that_a_disk_takes_are_kept(name) -> None:
    assert read({"name": name}) == ([name.removeprefix("./")], [])


@pytest.mark.parametrize("field", ["image", "mask"])
@pytest.mark.parametrize("name", ["x\0y.png", "a" * 300 + ".png", "a/" * 3000 + "x.png", "", "."])
def test_a_picture_that_cannot_be_there_is_its_lines_error(field, name) -> None:
    Image.new("RGB", (32, 32)).save("r.png")
    row = {"image": [name]} if field == "image" else {"image": ["r.png"], "mask": name}
    names, problems = read(row, {"name": "fine.png"})
    assert names == ["fine.png"]
    assert "p.jsonl, line 1: no such picture" in problems[0]


def test_a_name_is_no_folder_of_another() -> None:
    names, problems = read(
        {"name": "a.png"}, {"name": "a.png/b.png"}, {"name": "c.png/d.png"}, {"name": "c.png"}
    )
    assert names == ["a.png", "c.png/d.png"]
    assert "name 'a.png/b.png' lies in a folder, but 'a.png' is a picture of an earlier" in problems[0]
    assert "name 'c.png' is the folder of an earlier line's picture" in problems[1]


def test_what_stands_in_the_way_is_said_before_drawing_and_the_others_are_drawn(
    pipe, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(prompt_file, "load_pipeline", lambda options: pipe)
    Path("out/taken.png").mkdir(parents=True)
    Path("out/file").write_text("")
    rows = [{"name": "taken.png"}, {"name": "file/a.png"}, {"name": "fine.png"}]
    Path("p.jsonl").write_text("".join(json.dumps({"prompt": "a", "steps": 1, **row}) + "\n" for row in rows))
    assert main(["generate", "--file", "p.jsonl", "-o", "out"]) == 1
    said = capsys.readouterr().err
    assert "p.jsonl, line 1: there is a folder at out/taken.png" in said
    assert "p.jsonl, line 2: there is a file at out/file, where a folder is needed" in said
    assert Path("out/fine.png").is_file()


def test_a_prompt_file_with_one_row_is_drawn(pipe, monkeypatch) -> None:
    monkeypatch.setattr(prompt_file, "load_pipeline", lambda options: pipe)
    Path("one.txt").write_text("a star")
    assert main(["generate", "--file", "one.txt", "-o", "out", "--steps", "1"]) == 0
    assert [path.name for path in Path("out").iterdir()] == ["000001.png"]
