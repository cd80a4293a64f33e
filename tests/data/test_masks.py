"""Masks: transparent where the first picture may change, as in the OpenAI Images API."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepgen.data.images import ImageError
from deepgen.data.masks import check_mask, open_mask

CLEAR, SOLID = (9, 9, 9, 0), (9, 9, 9, 255)


def mask(size: tuple[int, int] = (6, 4)) -> Image.Image:
    image = Image.new("RGBA", size, SOLID)
    image.paste(CLEAR, (0, 0, 2, size[1]))
    return image


def test_transparent_pixels_may_change_whatever_the_mask_comes_as(tmp_path: Path) -> None:
    expected = np.zeros((4, 6), np.uint8)
    expected[:, :2] = 255
    content = io.BytesIO()
    mask().save(content, "PNG")
    (tmp_path / "m.png").write_bytes(content.getvalue())
    mask().save(tmp_path / "m.webp", lossless=True, exact=True)
    palette = Image.new("P", (6, 4), 1)
    palette.paste(0, (0, 0, 2, 4))
    palette.info["transparency"] = 0
    sources = (
        mask(),
        content.getvalue(),
        tmp_path / "m.png",
        str(tmp_path / "m.webp"),
        mask().convert("LA"),
        palette,
    )
    for source in sources:
        assert (np.asarray(open_mask(source)) == expected).all()


def test_half_transparent_is_transparent() -> None:
    alphas = Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8))
    image = Image.new("RGBA", (4, 1))
    image.putalpha(alphas)
    assert list(np.asarray(open_mask(image))[0]) == [255, 255, 0, 0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Image.new("RGB", (6, 4)), "mask has no transparency; make transparent what may change"),
        (Image.new("L", (6, 4)), "no transparency"),
        (b"no picture", "not a picture we can read"),
        ("nowhere.png", "there is no picture at nowhere.png"),
        ("https://host/mask.png", "addresses are not fetched"),
        (np.zeros((4, 6, 4), np.uint8), "mask must be a path, bytes or a Pillow picture"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_mask_is_refused(source: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_mask(source)


def test_a_mask_fits_its_picture_and_leaves_something_to_change() -> None:
    image = Image.new("RGB", (6, 4))
    check_mask(open_mask(mask()), image)
    with pytest.raises(ValueError, match="mask is 4x6 and the first picture 6x4; they must be equally large"):
        check_mask(open_mask(mask((4, 6))), image)
    with pytest.raises(ValueError, match="mask allows no pixel to change"):
        check_mask(open_mask(Image.new("RGBA", (6, 4), SOLID)), image)
