"""A sheet shows every sample, whatever its shape, number of pictures or text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageFont

from deepgen.data.contact_sheet import TILE_WIDTH, SampleTile, contact_sheet, make_tile
from deepgen.data.contact_sheet import _wrapped as wrapped
from deepgen.data.mixture import Draw, single_source


def tile(text: str = "a star", sizes=((96, 96),), error: str | None = None) -> SampleTile:
    images = tuple(Image.new("RGB", size, (200, 30, 30)) for size in sizes)
    return SampleTile(
        Draw(0, "edit" if len(sizes) > 1 else "generate", "set", 3), "set.json:3", text, images, error=error
    )


@pytest.mark.parametrize(
    "one",
    [
        tile(),
        tile(""),
        tile("word " * 500),
        tile("x" * 2000),
        tile("小猫" * 100),
        tile(sizes=((2000, 10), (10, 2000))),
        tile(sizes=((96, 96),) * 8),
        tile(sizes=(), error="there is no picture at " + "a/" * 400),
    ],
)  # fmt: skip
def test_any_sample_fits_on_a_tile(one) -> None:
    sheet = contact_sheet([one])
    assert TILE_WIDTH < sheet.width < 1.2 * TILE_WIDTH
    assert sheet.height < 800


def test_every_picture_is_on_the_sheet() -> None:
    colors = [(10 * i, 250 - 10 * i, 77) for i in range(20)]
    tiles = [
        SampleTile(Draw(i, "generate", "a", i), "k", "t", (Image.new("RGB", (90, 60), c),))
        for i, c in enumerate(colors)
    ]
    found = {color for _, color in contact_sheet(tiles).getcolors(2**24)}
    assert set(colors) <= found


def test_lines_are_no_wider_than_asked_and_lose_no_word() -> None:
    font = ImageFont.load_default(14)
    text = "several words and one incomprehensibilityincomprehensibility and more"
    lines = wrapped(text, font, 120, 50)
    assert all(font.getlength(line) <= 120 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_a_row_that_cannot_be_used_has_a_tile_with_the_reason(tmp_path) -> None:
    path: Path = tmp_path / "a.json"
    path.write_text(json.dumps([{"txt": "a", "image_path": "gone.png"}]))
    mixture = single_source("a", "t2i_sft", {"path": str(path)})
    made = make_tile(mixture, mixture.draw(0, 1))
    assert (made.text, made.images) == ("a", ())
    assert "no picture at gone.png" in made.error


def test_an_empty_sheet_and_a_broken_font_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        contact_sheet([])
    with pytest.raises(ValueError, match="cannot read a font"):
        contact_sheet([tile()], tmp_path / "gone.ttf")
