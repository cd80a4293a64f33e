"""Converting a source changes nothing that is trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepgen.data.bad_rows import TooManyBadRows
from deepgen.data.convert import convert_source
from deepgen.data.example_images import image_size, load_image
from deepgen.data.sources import make_source
from images_on_disk import image_bytes, write_image


def edits(folder: Path, count: int = 3):
    rows = []
    for i in range(count):
        names = [
            write_image(folder / "in" / f"{i}-{k}.png", 10 * i + k, (64, 32 * k + 32)).name for k in range(3)
        ]
        rows.append({"input_image": names[1:], "output_image": names[0], "instruction": f"édit {i}"})
    (folder / "edit.json").write_text(json.dumps(rows))
    return make_source("edit", path=str(folder / "edit.json"), image_dir=str(folder / "in"))


def test_a_converted_source_gives_the_same_examples_with_their_sizes(tmp_path) -> None:
    source = edits(tmp_path)
    done = convert_source(source, tmp_path / "out.jsonl", name="edits")
    assert (done.num_rows, done.num_bad, done.num_images_written) == (3, 0, 0)
    converted = make_source("jsonl", path=str(tmp_path / "out.jsonl"))
    for row in range(3):
        old, new = source[row], converted[row]
        assert (new.task, new.text, new.target, new.references) == (
            old.task,
            old.text,
            old.target,
            old.references,
        )
        assert new.size == image_size(old.target)
        assert new.reference_sizes == tuple(image_size(image) for image in old.references)


def test_paths_below_the_manifest_are_relative_and_others_absolute(tmp_path) -> None:
    source = edits(tmp_path, 1)
    convert_source(source, tmp_path / "out.jsonl", name="edits")
    convert_source(source, tmp_path / "elsewhere" / "out.jsonl", name="edits")
    near, far = (
        json.loads((tmp_path / name).read_text())["target"] for name in ("out.jsonl", "elsewhere/out.jsonl")
    )
    assert (near, far) == ("in/0-0.png", str(tmp_path / "in" / "0-0.png"))


class InMemory:
    """Pictures held as bytes, as tables do."""

    task = "generate"

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        from deepgen.data.example import Example

        content = image_bytes(index, format=("PNG", "JPEG")[index])
        return Example(task="generate", text=str(index), target=content, key=f"table:{index}", language="en")


def test_pictures_inside_other_files_are_written_out(tmp_path) -> None:
    done = convert_source(InMemory(), tmp_path / "out.jsonl", name="table")
    assert done.num_images_written == 2
    converted = make_source("jsonl", path=str(tmp_path / "out.jsonl"))
    assert [converted[row].target.suffix for row in range(2)] == [".png", ".jpg"]
    assert converted[1].language == "en"
    for row in range(2):
        old, new = InMemory()[row], converted[row]
        assert load_image(new.target).tobytes() == load_image(old.target).tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out_pictures"]


def test_nothing_is_overwritten(tmp_path) -> None:
    source = edits(tmp_path)
    (tmp_path / "out.jsonl").write_text("precious")
    with pytest.raises(FileExistsError, match="exists already"):
        convert_source(source, tmp_path / "out.jsonl", name="edits")
    assert (tmp_path / "out.jsonl").read_text() == "precious"
    with pytest.raises(ValueError, match=r"try .*out.jsonl"):
        convert_source(source, tmp_path / "out.json", name="edits")


def test_bad_rows_are_left_out_within_the_limit_and_nothing_is_kept_beyond_it(tmp_path) -> None:
    source = edits(tmp_path)
    (tmp_path / "in" / "1-0.png").unlink()
    with pytest.raises(TooManyBadRows, match="1 of 3"):
        convert_source(source, tmp_path / "out.jsonl", name="edits")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edit.json", "in"]
    done = convert_source(source, tmp_path / "out.jsonl", name="edits", bad_share_limit=0.5)
    assert (done.num_rows, done.num_bad) == (2, 1)
