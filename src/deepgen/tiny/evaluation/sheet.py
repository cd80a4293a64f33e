"""Sheets of pictures in rows with labels, green frames around right ones and red ones around wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from deepgen.data.png import attach_records_of
from deepgen.tiny.render import CANVAS

_GAP, _FRAME, _LABEL = 6, 3, 150
_LINE = 12  # pixels of a line of a caption
_COLORS = {True: (0, 150, 60), False: (205, 30, 30), None: (170, 170, 170)}


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A picture; whether it is right, None where that is not asked; what stands under it."""

    image: Image.Image
    is_right: bool | None = None
    caption: str = ""


def sheet(rows: Sequence[tuple[str, Sequence[Tile]]], *, caption_lines: int = 0) -> Image.Image:
    """One row a label, its tiles from left to right, with so many lines of caption under each tile.

    The sheet carries the records that its pictures carry.
    """
    columns = max(len(tiles) for _, tiles in rows)
    wide, high = CANVAS + 2 * _FRAME + _GAP, CANVAS + 2 * _FRAME + _GAP + caption_lines * _LINE
    label = _LABEL if any(text for text, _ in rows) else _GAP
    canvas = Image.new("RGB", (label + columns * wide, len(rows) * high + _GAP), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=10)
    for row, (text, tiles) in enumerate(rows):
        top = _GAP + row * high
        draw.multiline_text((_GAP, top + CANVAS // 2 - 8), _wrapped(text, label - 12, font), fill="black",
                            font=font)  # fmt: skip
        for column, tile in enumerate(tiles):
            left = label + column * wide
            box = (left, top, left + CANVAS + 2 * _FRAME - 1, top + CANVAS + 2 * _FRAME - 1)
            draw.rectangle(box, fill=_COLORS[tile.is_right])
            canvas.paste(_fitted(tile.image), (left + _FRAME, top + _FRAME))
            if caption_lines:
                words = _wrapped(tile.caption, CANVAS + 2 * _FRAME, font).split("\n")[:caption_lines]
                place = (left, top + CANVAS + 2 * _FRAME + 1)
                draw.multiline_text(place, "\n".join(words), fill="black", font=font, spacing=0)
    attach_records_of(canvas, [tile.image for _, tiles in rows for tile in tiles])
    return canvas


def _fitted(image: Image.Image) -> Image.Image:
    return image if image.size == (CANVAS, CANVAS) else image.resize((CANVAS, CANVAS))


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
