"""Pictures remember how they were made, and appear whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from deepgen.cli import main
from deepgen.data.image_files import save_image
from deepgen.data.png import ImageRecord, attach_record, image_grid, read_record, read_records, save_png

IMAGE = Image.new("RGB", (6, 4), (1, 2, 3))
RECORD = ImageRecord(
    prompt='ein grüner Stern, 星, "quoted"\nsecond line',
    negative_prompt="blurry",
    seed=2**40,
    num_inference_steps=16,
    guidance_scale=2.5,
    width=6,
    height=4,
    solver="euler",
    model="tiny",
    image=("a.png", "b.png"),
)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    save_png(IMAGE, tmp_path / "a.png", RECORD)
    assert read_record(tmp_path / "a.png") == RECORD
    with Image.open(tmp_path / "a.png") as image:
        assert image.text["prompt"] == RECORD.prompt
        assert image.text["seed"] == str(2**40)
        assert json.loads(image.text["deepgen"])["guidance_scale"] == 2.5
        assert image.tobytes() == IMAGE.tobytes()


@pytest.mark.parametrize("name", ["sheet.png", "sheet.jpg", "sheet.webp"])
def test_a_sheet_keeps_the_records_of_its_pictures(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, plain = IMAGE.copy(), IMAGE.copy(), IMAGE.copy()
    other = replace(RECORD, seed=None)
    attach_record(first, RECORD)
    attach_record(second, other)
    row = image_grid([first.convert("RGB"), plain])  # `convert` keeps what a picture carries
    sheet = image_grid([row, second])
    save_image(sheet, tmp_path / name, read_records(sheet))
    assert read_records(tmp_path / name) == [RECORD, other]
    assert read_record(tmp_path / name) is None  # of one picture
    assert main(["info", str(tmp_path / name), "--json"]) == 0
    assert [one["seed"] for one in json.loads(capsys.readouterr().out)["images"]] == [2**40, None]


def test_info_prints_how_a_picture_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_png(IMAGE, tmp_path / "a.png", RECORD)
    assert main(["info", str(tmp_path / "a.png")]) == 0
    said = capsys.readouterr().out
    assert all(
        line in said for line in (f"seed                 {2**40}\n", "image                a.png, b.png\n")
    )
    save_png(IMAGE, tmp_path / "b.png")
    for name, reason in (("b.png", "has no record of how it was made"), ("c.png", "there is no picture at")):
        assert main(["info", str(tmp_path / name)]) == 2
        assert reason in capsys.readouterr().err


def test_another_programs_entries_stand_beside_the_record(tmp_path: Path) -> None:
    save_png(IMAGE, tmp_path / "a.png", RECORD, {"prompt": "{}"})
    assert read_record(tmp_path / "a.png") == RECORD
    with Image.open(tmp_path / "a.png") as image:
        assert image.text.keys() == {"prompt", "deepgen"}


def test_a_picture_without_a_record_says_nothing(tmp_path: Path) -> None:
    save_png(IMAGE, tmp_path / "a.png")
    assert read_record(tmp_path / "a.png") is None
    with Image.open(tmp_path / "a.png") as image:
        assert image.text == {}


@pytest.mark.parametrize(
    "text", ["not json", "[]", '{"prompt": "x"}', '{"references": [], "colour": 1}', "3"]
)
def test_foreign_entries_of_the_same_name_are_no_record(text: str, tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("deepgen", text)
    IMAGE.save(tmp_path / "a.png", pnginfo=info)
    assert read_record(tmp_path / "a.png") is None


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    save_png(IMAGE, path)
    before = path.read_bytes()

    def full_disk(self, file, **options) -> None:
        file.write(b"half a pic")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_png(Image.new("RGB", (9, 9)), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("count", "size"),
    [(1, (10, 5)), (2, (24, 5)), (3, (24, 14)), (4, (24, 14)), (5, (38, 14)), (9, (38, 23))],
)
def test_a_grid_is_as_square_as_it_goes(count: int, size: tuple[int, int]) -> None:
    assert image_grid([Image.new("RGB", (10, 5))] * count).size == size


def test_a_grid_keeps_the_order_row_by_row() -> None:
    greys = [Image.new("RGB", (2, 2), (value,) * 3) for value in (10, 20, 30)]
    sheet = image_grid(greys, gap=0)
    corners = [sheet.getpixel(at)[0] for at in ((0, 0), (2, 0), (0, 2), (2, 2))]
    assert corners == [10, 20, 30, 255]


def test_a_grid_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        image_grid([])
