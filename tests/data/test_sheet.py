"""A sheet shows every sample, whatever its shape, number of pictures or text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageFont

from deepgen.data.mixture import Draw, single_source
from deepgen.data.sheet import CARD, Card, contact_sheet, make_card
from deepgen.data.sheet import _wrapped as wrapped


def card(text: str = "a star", sizes=((96, 96),), error: str | None = None) -> Card:
    images = tuple(Image.new("RGB", size, (200, 30, 30)) for size in sizes)
    return Card(
        Draw(0, "edit" if len(sizes) > 1 else "generate", "set", 3), "set.json:3", text, images, error=error
    )


@pytest.mark.parametrize(
    "one",
    [
        card(),
        card(""),
        card("word " * 500),
        card("x" * 2000),
        card("小猫" * 100),
        card(sizes=((2000, 10), (10, 2000))),
        card(sizes=((96, 96),) * 8),
        card(sizes=(), error="there is no picture at " + "a/" * 400),
    ],
)  # fmt: skip
def test_any_sample_fits_on_a_card(one) -> None:
    sheet = contact_sheet([one])
    assert CARD < sheet.width < 1.2 * CARD
    assert sheet.height < 800


def test_every_picture_is_on_the_sheet() -> None:
    colors = [(10 * i, 250 - 10 * i, 77) for i in range(20)]
    cards = [
        Card(Draw(i, "generate", "a", i), "k", "t", (Image.new("RGB", (90, 60), c),))
        for i, c in enumerate(colors)
    ]
    found = {color for _, color in contact_sheet(cards).getcolors(2**24)}
    assert set(colors) <= found


def test_lines_are_no_wider_than_asked_and_lose_no_word() -> None:
    font = ImageFont.load_default(14)
    text = "several words and one incomprehensibilityincomprehensibility and more"
    lines = wrapped(text, font, 120, 50)
    assert all(font.getlength(line) <= 120 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_a_row_that_cannot_be_used_has_a_card_with_the_reason(tmp_path) -> None:
    path: Path = tmp_path / "a.json"
    path.write_text(json.dumps([{"txt": "a", "image_path": "gone.png"}]))
    mixture = single_source("a", "t2i_sft", {"path": str(path)})
    made = make_card(mixture, mixture.draw(0, 1))
    assert (made.text, made.images) == ("a", ())
    assert "no picture at gone.png" in made.error


def test_an_empty_sheet_and_a_broken_font_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        contact_sheet([])
    with pytest.raises(ValueError, match="cannot read a font"):
        contact_sheet([card()], tmp_path / "gone.ttf")
