"""A contact sheet of training samples: pictures and texts as a model would get them, for a look beforehand.

Each tile has the pictures of one sample (references, an arrow, the target) in one strip, its text below, and
where it comes from. A row that cannot be used has a tile too, with the reason in red.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from deepgen.data.example import RowError
from deepgen.data.example_images import load_image
from deepgen.data.images import ImageError
from deepgen.data.mixture import Draw, Mixture

TILE_WIDTH, STRIP, PAD, GAP, ARROW = 380, 200, 14, 18, 34
TEXT_LINES = 7
PAGE, PAPER, FRAME = (238, 239, 242), (255, 255, 255), (212, 214, 220)
INK, FAINT, RED = (32, 34, 40), (120, 124, 134), (190, 40, 40)
TASK_COLORS = {"generate": (44, 110, 180), "edit": (176, 92, 20)}


@dataclass(frozen=True)
class SampleTile:
    """One sample: its pictures, the target last, or the reason why there are none."""

    draw: Draw
    key: str
    text: str
    images: tuple[Image.Image, ...]
    sizes: tuple[str, ...] = ()  # "1024x768 as 608x448" of each picture
    error: str | None = None


def make_tile(mixture: Mixture, draw: Draw) -> SampleTile:
    """The tile of a sample."""
    key, text = f"{draw.source}:{draw.index}", ""
    try:
        example = mixture.example(draw)
        key, text = example.key, example.text
        images = tuple(load_image(image) for image in (*example.references, example.target))
        if example.limits is not None:
            example.limits.check((images[-1].height, images[-1].width), key)
    except (RowError, ImageError) as error:
        return SampleTile(draw, key, text, (), error=str(error))
    return SampleTile(draw, key, text, images, tuple(_size_text(mixture, image) for image in images))


def contact_sheet(tiles: Sequence[SampleTile], font_path: Path | None = None) -> Image.Image:
    """All tiles on one page, as nearly square as they go."""
    if not tiles:
        raise ValueError("a contact sheet needs at least one sample, got none")
    fonts = _Fonts(font_path)
    drawn = [_draw_tile(tile, fonts) for tile in tiles]
    # Tiles differ in height, so each goes to the column that is shortest so far.
    num_columns = max(1, min(len(tiles), ceil((sum(tile.height for tile in drawn) / TILE_WIDTH) ** 0.5)))
    heights = [GAP] * num_columns
    places: list[tuple[int, int]] = []
    for tile in drawn:
        column = heights.index(min(heights))
        places.append((GAP + column * (TILE_WIDTH + GAP), heights[column]))
        heights[column] += tile.height + GAP
    sheet = Image.new("RGB", (GAP + num_columns * (TILE_WIDTH + GAP), max(heights)), PAGE)
    for tile, place in zip(drawn, places, strict=True):
        sheet.paste(tile, place)
    return sheet


@dataclass(frozen=True)
class _Fonts:
    """Pillow's own font knows Latin letters only; for other scripts give a font file."""

    path: Path | None = None
    sizes: tuple[int, int] = field(default=(15, 12))

    @cached_property
    def text(self) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        return self._load(self.sizes[0])

    @cached_property
    def small(self) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        return self._load(self.sizes[1])

    def _load(self, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        if self.path is None:
            return ImageFont.load_default(size)
        try:
            return ImageFont.truetype(str(self.path), size)
        except OSError as error:
            raise ValueError(f"cannot read a font from {self.path}: {error}") from error


def _draw_tile(tile: SampleTile, fonts: _Fonts) -> Image.Image:
    inner = TILE_WIDTH - 2 * PAD
    canvas = Image.new("RGB", (TILE_WIDTH, 4000), PAPER)
    pen = ImageDraw.Draw(canvas)
    y = PAD
    _tag(pen, tile.draw.task, (PAD, y), fonts)
    source = _fitted(f"{tile.draw.source}  #{tile.draw.index}", fonts.small, inner - 90)
    pen.text((TILE_WIDTH - PAD, y + 2), source, font=fonts.small, fill=FAINT, anchor="ra")
    y += 26
    if tile.images:
        y = _draw_strip(canvas, pen, tile, y, fonts)
    for line in _wrapped(tile.text or "(empty text)", fonts.text, inner, TEXT_LINES):
        pen.text((PAD, y), line, font=fonts.text, fill=INK if tile.text else FAINT)
        y += 20
    if tile.error:
        for line in _wrapped(tile.error, fonts.small, inner, 6):
            pen.text((PAD, y + 4), line, font=fonts.small, fill=RED)
            y += 17
    y += 6
    pen.text((PAD, y), _fitted(tile.key, fonts.small, inner, keep_end=True), font=fonts.small, fill=FAINT)
    y += 16 + PAD
    canvas = canvas.crop((0, 0, TILE_WIDTH, y))
    ImageDraw.Draw(canvas).rectangle((0, 0, TILE_WIDTH - 1, y - 1), outline=RED if tile.error else FRAME)
    return canvas


def _draw_strip(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, tile: SampleTile, y: int, fonts: _Fonts
) -> int:
    """References, an arrow and the target side by side at one height; returns the y below them."""
    between = [8] * max(len(tile.images) - 2, 0) + [ARROW] * (len(tile.images) > 1)
    room = TILE_WIDTH - 2 * PAD - sum(between)
    ratios = [image.width / image.height for image in tile.images]
    height = max(24, min(STRIP, int(room / sum(ratios))))
    widths = [min(room, max(8, round(height * ratio))) for ratio in ratios]
    x = PAD + max(0, (room - sum(widths)) // 2)
    for number, (image, width) in enumerate(zip(tile.images, widths, strict=True)):
        filter = Image.Resampling.LANCZOS if image.width > width else Image.Resampling.NEAREST
        canvas.paste(image.resize((width, height), filter), (x, y))
        pen.rectangle((x - 1, y - 1, x + width, y + height), outline=FRAME)
        if number < len(between):
            if number == len(tile.images) - 2:
                _arrow(pen, x + width + 8, y + height // 2)
            x += between[number]
        x += width
    sizes = ", ".join(tile.sizes)
    y += height + 6
    for line in _wrapped(sizes, fonts.small, TILE_WIDTH - 2 * PAD, 3):
        pen.text((TILE_WIDTH // 2, y), line, font=fonts.small, fill=FAINT, anchor="ma")
        y += 15
    return y + 5


def _arrow(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    pen.line((x, y, x + ARROW - 20, y), fill=FAINT, width=3)
    end = x + ARROW - 14
    pen.polygon([(end, y), (end - 9, y - 7), (end - 9, y + 7)], fill=FAINT)


def _tag(pen: ImageDraw.ImageDraw, task: str, place: tuple[int, int], fonts: _Fonts) -> None:
    x, y = place
    width = round(fonts.small.getlength(task)) + 14
    pen.rounded_rectangle((x, y, x + width, y + 18), radius=9, fill=TASK_COLORS[task])
    pen.text((x + width // 2, y + 9), task, font=fonts.small, fill=PAPER, anchor="mm")


def _wrapped(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int
) -> list[str]:
    """At most `most` lines no wider than `width`, broken at spaces, or inside words that are too long."""
    lines = [""]
    for word in " ".join(text.split()).split(" "):
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    if len(lines) > most:
        lines = [*lines[: most - 1], _fitted(f"{lines[most - 1]} ...", font, width)]
    return lines


def _fitted(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, keep_end: bool = False
) -> str:
    """The text, or as much of its beginning or end as fits with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[1:] if keep_end else text[:-1]
    return f"...{text}" if keep_end else f"{text}..."


def _size_text(mixture: Mixture, image: Image.Image) -> str:
    height, width = mixture.config.image.size((image.height, image.width))
    return f"{image.width}x{image.height} as {width}x{height}"
