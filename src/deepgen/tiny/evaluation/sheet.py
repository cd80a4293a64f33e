"""Sheets of pictures in rows with labels, green frames around right ones and red ones around wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from deepgen.data.png import attach_records_of
from deepgen.tiny.render import CANVAS

_GAP, _FRAME, _LABEL = 16, 4, 190
_PAIRED_GAP = 2  # pixels between a source and its result
_FONTS = {1: 12, 2: 15}  # pixels of a letter by scale
_COLORS = {True: (0, 150, 60), False: (205, 30, 30), None: (170, 170, 170)}


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A picture; whether it is right, None where that is not asked; what stands under it.

    A source stands close to the tile after it, its result, and its caption may run under both.
    """

    image: Image.Image
    is_right: bool | None = None
    caption: str = ""
    is_source: bool = False


def sheet(
    rows: Sequence[tuple[str, Sequence[Tile]]], *, caption_lines: int = 0, scale: Literal[1, 2] = 2
) -> Image.Image:
    """One row a label, its tiles from left to right, with at most so many lines of caption under each tile.

    Pictures are twice as large with scale 2, since faces and letters are hard to judge at their own size. A
    row is as high as its longest caption needs; what is cut ends in "…". The sheet carries the records
    that its pictures carry.
    """
    size = _FONTS[scale]
    font, line_height = ImageFont.load_default(size=size), size + 3
    label = _LABEL if any(text for text, _ in rows) else _GAP
    box = scale * CANVAS + 2 * _FRAME
    captions = [[_caption(tile, box, caption_lines, font) for tile in tiles] for _, tiles in rows]
    heights = [
        box + line_height * max((len(lines) for lines in row), default=0) + _GAP + (2 if caption_lines else 0)
        for row in captions
    ]
    width = label + max((_lefts(tiles, box)[-1] for _, tiles in rows), default=0)
    canvas = Image.new("RGB", (width, sum(heights) + _GAP), "white")
    draw, top = ImageDraw.Draw(canvas), _GAP
    for (text, tiles), row_captions, height in zip(rows, captions, heights, strict=True):
        lines = _wrapped(text, label - 2 * _GAP, font)
        draw.multiline_text((_GAP, top + box // 2 - line_height // 2 * (lines.count("\n") + 1)), lines,
                            fill="black", font=font)  # fmt: skip
        for tile, left, caption in zip(tiles, _lefts(tiles, box), row_captions, strict=False):
            x = label + left
            draw.rectangle((x, top, x + box - 1, top + box - 1), fill=_COLORS[tile.is_right])
            canvas.paste(_fitted(tile.image, scale), (x + _FRAME, top + _FRAME))
            for number, line in enumerate(caption):
                draw.text((x, top + box + 2 + number * line_height), line, fill="black", font=font)
        top += height
    attach_records_of(canvas, [tile.image for _, tiles in rows for tile in tiles])
    return canvas


def _lefts(tiles: Sequence[Tile], box: int) -> list[int]:
    """Where each tile of a row begins, and where the next would."""
    lefts = [0]
    for tile in tiles:
        lefts.append(lefts[-1] + box + (_PAIRED_GAP if tile.is_source else _GAP))
    return lefts


def _caption(
    tile: Tile, wide: int, most: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[str]:
    if not (tile.caption and most):
        return []
    lines = _wrapped(tile.caption, 2 * wide + _PAIRED_GAP if tile.is_source else wide, font).split("\n")
    return lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1]} …"]


def _fitted(image: Image.Image, scale: int) -> Image.Image:
    """Its pixels as they are, enlarged; of another size, resized."""
    resample = Image.Resampling.NEAREST if image.size == (CANVAS, CANVAS) else Image.Resampling.LANCZOS
    return image.resize((scale * CANVAS, scale * CANVAS), resample)


def _wrapped(text: str, width: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text in lines of at most so many pixels; a longer word has a line of its own."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
