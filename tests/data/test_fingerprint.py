"""What a run learnt from is told apart by content: not by dates, and not by where it lies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from deepgen.data import fingerprint
from deepgen.data.fingerprint import mixture_facts, path_fingerprint, prompt_facts
from deepgen.data.mixture import single_source
from deepgen.data.prompts import open_prompts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures with captions."""
    place = tmp_path / "pictures"
    place.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), "red").save(place / f"{name}.png")
        (place / f"{name}.txt").write_text(f"picture {name}")
    return place


def facts(folder: Path) -> dict:
    return mixture_facts(single_source("mine", "folder", {"path": str(folder)}))["sources"]["mine"]


def test_a_copy_with_other_dates_elsewhere_is_the_same(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    for file in (tmp_path / "copy").iterdir():
        os.utime(file, (1e9, 1e9))
    assert facts(folder) == facts(tmp_path / "copy")


def test_a_caption_of_the_same_length_another_name_and_another_row_are_changes(folder: Path) -> None:
    before = facts(folder)
    (folder / "a.txt").write_text("picture x")
    changed = facts(folder)
    assert changed["rows"] == before["rows"] == 2
    assert changed["content"] != before["content"]
    (folder / "a.txt").write_text("picture a")
    assert facts(folder) == before
    (folder / ".DS_Store").write_text("of the system")
    assert facts(folder) == before
    for suffix in (".png", ".txt"):
        shutil.copy(folder / f"a{suffix}", folder / f"c{suffix}")
    assert facts(folder)["rows"] == 3


def test_a_large_file_is_told_by_its_size_and_by_samples_all_over_it(tmp_path: Path) -> None:
    file, size = tmp_path / "rows.bin", 40 * 2**16
    content = bytearray(size)
    file.write_bytes(content)
    before = path_fingerprint([file])
    for place in (0, size - 1):
        content[place] = 1
        file.write_bytes(content)
        assert path_fingerprint([file]) != before
        content[place] = 0
    file.write_bytes(content[:-1])
    assert path_fingerprint([file]) != before


def test_only_so_much_of_a_folder_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_MAX_BYTES", 10)
    before = facts(folder)
    (folder / "b.txt").write_text("picture x")  # past the first file, and of the same size
    assert facts(folder) == before
    (folder / "b.txt").write_text("picture of b")
    assert facts(folder) != before


def test_rows_that_are_drawn_are_told_by_their_texts_and_options() -> None:
    one, same, other = (
        mixture_facts(single_source("world", "shapes", {"rows": 64, "seed": seed})) for seed in (1, 1, 2)
    )
    assert one == same
    assert one["sources"]["world"]["content"] != other["sources"]["world"]["content"]


def test_prompts_are_told_by_their_file_and_their_rewards(tmp_path: Path) -> None:
    file, copy = tmp_path / "prompts.txt", tmp_path / "copy.txt"
    for path in (file, copy):
        path.write_text("a red circle\na blue square\n")
    before = prompt_facts(open_prompts(file, {"redness": 1.0}))
    again = prompt_facts(open_prompts(copy, {"redness": 1.0}))
    assert list(again["sets"].values()) == list(before["sets"].values())
    assert prompt_facts(open_prompts(file, {"redness": 0.5})) != before
    file.write_text("a red circle\na blue circle\n")
    assert prompt_facts(open_prompts(file, {"redness": 1.0})) != before
