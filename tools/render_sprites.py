"""Renders the drawings of the storybook world, once, into src/deepgen/assets/storybook.png.

Needs what the package itself does not: `pip install resvg-py numpy pillow` in an environment of its own, the
two npm packages (`npm pack @iconify-json/noto @iconify-json/fluent-emoji-flat`, then tar), and DejaVu Sans
Condensed Bold (Debian: fonts-dejavu-extra). With src on PYTHONPATH:

    python tools/render_sprites.py --noto noto --fluent fluent --font DejaVuSansCondensed-Bold.ttf

Each drawing is rendered at about 1000 pixels, trimmed to what is visible, and averaged down to 22 and 30
pixels with premultiplied colors, so no rim takes the color of the invisible surroundings. The sheet has cells
of 32 pixels, 16 in a row, in bands that start on a new row: glossy small, glossy large, flat small, flat
large (each in the order of NOUNS), and the letters A to Z as black coverage. The order is written into the
file and checked by `deepgen.tiny.sprites`.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from deepgen.tiny.nouns import DRAWN_AS, NOUNS
from deepgen.tiny.scene import CELL, SIDES, SIZES, STYLES

_HIGH = 1024  # pixels of the rendered viewBox
_COLUMNS = 16
_LETTER_SIDE = 24
# Colors of drawings so pale that they vanish on light grounds are multiplied by these (red, green, blue).
_DEEPENED = {("glossy", "snowflake"): (0.45, 0.6, 0.85)}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def main() -> None:
    """Read the packages, write the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--noto", type=Path, required=True, help="folder of @iconify-json/noto")
    parser.add_argument(
        "--fluent", type=Path, required=True, help="folder of @iconify-json/fluent-emoji-flat"
    )
    parser.add_argument("--font", type=Path, required=True, help="DejaVuSansCondensed-Bold.ttf")
    parser.add_argument("--output", type=Path, default=Path("src/deepgen/assets/storybook.png"))
    arguments = parser.parse_args()

    sets = {"glossy": _icons(arguments.noto), "flat": _icons(arguments.fluent)}
    bands: list[list[np.ndarray]] = []
    for style in STYLES:
        drawings = [
            _render(sets[style], DRAWN_AS.get(noun, noun)) * (*_DEEPENED.get((style, noun), (1, 1, 1)), 1)
            for noun in NOUNS
        ]
        bands.extend([_reduce(drawing, SIDES[size]) for drawing in drawings] for size in SIZES)
    bands.append(_letters(arguments.font))

    sheet = Image.fromarray(_sheet(bands), "RGBA")
    facts = PngImagePlugin.PngInfo()
    facts.add_text("nouns", " ".join(NOUNS))
    facts.add_text("bands", " ".join(f"{style}-{size}" for style in STYLES for size in SIZES) + " letters")
    sheet.save(arguments.output, pnginfo=facts, optimize=True)
    print(f"{arguments.output}: {len(NOUNS)} nouns, {arguments.output.stat().st_size} bytes")


def _icons(folder: Path) -> dict:
    return json.loads((folder / "icons.json").read_text())


def _render(icons: dict, name: str) -> np.ndarray:
    """The drawing, trimmed and squared: float (side, side, 4), colors premultiplied, in [0, 1]."""
    name = icons["aliases"].get(name, {}).get("parent", name) if name not in icons["icons"] else name
    if name not in icons["icons"]:
        raise ValueError(f"{icons['prefix']} has no drawing {name!r}; add its name there to DRAWN_AS")
    icon = icons["icons"][name]
    width, height = (icon.get(key, icons[key]) for key in ("width", "height"))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" '
    )
    svg += f'width="{width}" height="{height}">{icon["body"]}</svg>'
    data = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=_HIGH, skip_system_fonts=True))
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"), dtype=np.float64) / 255
    pixels[..., :3] *= pixels[..., 3:]
    rows, columns = (np.flatnonzero((pixels[..., 3] > 0.1).any(axis)) for axis in (1, 0))
    return _squared(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _squared(pixels: np.ndarray) -> np.ndarray:
    """In the middle of an empty square of its longer side."""
    side = max(pixels.shape[:2])
    square = np.zeros((side, side, pixels.shape[2]))
    top, left = ((side - extent) // 2 for extent in pixels.shape[:2])
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return square


def _reduce(pixels: np.ndarray, side: int) -> np.ndarray:
    """Averaged over areas to (side, side), as uint8 RGBA with plain (not premultiplied) colors."""
    channels = [Image.fromarray(pixels[..., c].astype(np.float32), "F") for c in range(4)]
    small = np.stack([np.asarray(c.resize((side, side), Image.Resampling.BOX)) for c in channels], -1)
    alpha = small[..., 3:]
    colors = np.divide(small[..., :3], alpha, out=np.zeros_like(small[..., :3]), where=alpha >= 0.5 / 255)
    return np.rint(255 * np.clip(np.concatenate([colors, alpha], -1), 0, 1)).astype(np.uint8)


def _letters(font_path: Path) -> list[np.ndarray]:
    """Black capitals of one height, each centred in 24x24, drawn 32 times too large and averaged down."""
    scale = 32
    font = ImageFont.truetype(str(font_path), size=23 * scale)
    side = _LETTER_SIDE * scale
    drawn = []
    for letter in _LETTERS:
        image = Image.new("L", (side, side))
        left, _, right, _ = font.getbbox(letter, anchor="ls")
        top, bottom = font.getbbox("H", anchor="ls")[1::2]  # all stand on one line, whatever sticks out
        origin = ((side - right - left) / 2, (side - top - bottom) / 2)
        ImageDraw.Draw(image).text(origin, letter, fill=255, font=font, anchor="ls")
        pixels = np.zeros((side, side, 4))
        pixels[..., 3] = np.asarray(image) / 255
        drawn.append(_reduce(pixels, _LETTER_SIDE))
    return drawn


def _sheet(bands: list[list[np.ndarray]]) -> np.ndarray:
    rows = []
    for band in bands:
        for start in range(0, len(band), _COLUMNS):
            row = np.zeros((CELL, _COLUMNS * CELL, 4), np.uint8)
            for column, sprite in enumerate(band[start : start + _COLUMNS]):
                margin = (CELL - len(sprite)) // 2
                left = column * CELL + margin
                row[margin : margin + len(sprite), left : left + len(sprite)] = sprite
            rows.append(row)
    return np.concatenate(rows)


if __name__ == "__main__":
    main()
