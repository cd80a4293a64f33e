"""`deepgen data` from the command line: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from deepgen.cli.app import main
from images_on_disk import write_image


@pytest.fixture
def folder(tmp_path) -> Path:
    """A mixture of four pictures, one of them missing, and three edits."""
    generate = [{"txt": f"scene {i}", "image_path": f"g{i}.png"} for i in range(4)]
    edit = [
        {"input_image": [f"g{i}.png"], "output_image": f"e{i}.png", "instruction": f"edit {i}"}
        for i in range(3)
    ]
    for i in range(3):
        write_image(tmp_path / f"g{i}.png", i)
        write_image(tmp_path / f"e{i}.png", 10 + i, (96, 64))
    (tmp_path / "generate.json").write_text(json.dumps(generate))
    (tmp_path / "edit.json").write_text(json.dumps(edit))
    (tmp_path / "mixture.yaml").write_text(
        """
root: .
tasks:
  edit: {ratio: 1, sources: {edits: {source: edit, path: edit.json, image_dir: .}}}
  generate: {ratio: 3, sources: {scenes: {source: t2i_sft, path: generate.json, image_dir: .}}}
"""
    )
    return tmp_path


def test_inspect_draws_a_sheet_and_prints_what_it_found(folder, capsys) -> None:
    sheet = folder / "sheet.png"
    assert main(["data", "inspect", str(folder / "mixture.yaml"), "-o", str(sheet), "-n", "7"]) == 0
    out = capsys.readouterr().out
    assert "7 samples, 1 of them cannot be used" in out
    assert "96x96 as 512x512, 64x96 as 448x640  'edit" in out
    with Image.open(sheet) as image:
        assert image.width > 700


def test_inspect_guesses_the_format_of_a_folder(tmp_path, capsys) -> None:
    write_image(tmp_path / "a.png", 0)
    (tmp_path / "a.txt").write_text("a star")
    assert main(["data", "inspect", str(tmp_path), "-o", str(tmp_path / "out" / "sheet.png")]) == 0
    assert "'a star'" in capsys.readouterr().out


def test_stats_says_what_there_is_and_ends_with_1_when_files_are_missing(folder, capsys) -> None:
    assert main(["data", "stats", str(folder / "mixture.yaml")]) == 1
    out = capsys.readouterr().out
    for text in (
        "edits: edit, 3 rows, 25.00% of draws",
        "512x512 -> 448x640 100%",
        "references  3 with 1",
        "scenes: generate, 4 rows, 75.00% of draws",
        "text        7 / 7 / 7 characters",
        "bad rows    1 of 4 looked at",
        "1 x a picture is missing",
        "2 source(s), 7 rows",
    ):
        assert text in out


def test_stats_has_json_for_programs(folder, capsys) -> None:
    assert main(["data", "stats", str(folder / "mixture.yaml"), "--only", "edits", "--json"]) == 0
    (edits,) = json.loads(capsys.readouterr().out)["sources"]
    assert (edits["name"], edits["rows"], edits["share"], edits["bad"]) == ("edits", 3, 1.0, {})


def test_convert_takes_one_source_and_its_result_is_one(folder, capsys) -> None:
    target = folder / "new" / "edits.jsonl"
    arguments = ["data", "convert", str(folder / "edit.json"), str(target)]
    assert main([*arguments, "--source", "edit", "--set", f"image_dir={folder}"]) == 0
    out = capsys.readouterr().out
    assert "3 rows, 0 left out, 0 pictures written" in out
    assert f"6 pictures lie outside of {folder / 'new'}; read the manifest with outside=true" in out
    assert main(["data", "stats", str(target)]) == 2
    assert "set the option outside=true" in capsys.readouterr().err
    assert main(["data", "stats", str(target), "--set", "outside=true"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "gone"], "there is nothing at"),
        (["inspect", "DIR/edit.json"], "say --source FORMAT"),
        (["inspect", "DIR/edit.json", "--source", "csv"], "known: caption_pair"),
        (["inspect", "DIR/edit.json", "--source", "edit", "--set", "x"], "is not OPTION=VALUE"),
        (["inspect", "DIR/edit.json", "--source", "edit", "--set", "x=1"], "unknown option 'x'"),
        (["inspect", "DIR/edit.json", "--source", "edit", "--only", "x"], "are for mixtures"),
        (["inspect", "DIR/mixture.yaml", "--only", "x"], "known: edits, scenes"),
        (["inspect", "DIR/mixture.yaml", "--source", "edit"], "is a mixture"),
        (["inspect", "DIR/mixture.yaml", "-o", "a.gif"], ".gif is none of them; try a.png"),
        (["inspect", "DIR/mixture.yaml", "-n", "0"], "at least 1"),
        (["stats", "DIR/mixture.yaml", "--sample", "0"], "at least 1"),
        (["stats", "stage1"], "`root` is empty"),
        (["stats", "stage2", "--root", "DIR"], "there is nothing at"),
        (["convert", "DIR/mixture.yaml", "DIR/out.jsonl"], "choose it with --only, from: edits, scenes"),
        (
            ["convert", "DIR/mixture.yaml", "DIR/out.jsonl", "--only", "scenes"],
            "1 of 4 samples cannot be used",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(folder, capsys, arguments, message) -> None:
    given = [argument.replace("DIR", str(folder)) for argument in arguments]
    assert main(["data", *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
