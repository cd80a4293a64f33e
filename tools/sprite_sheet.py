"""Draws docs/tiny/storybook_sprites.png: every thing of the storybook world, large and small, in both styles.

python tools/sprite_sheet.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.render import render
from deepgen.tiny.scene import CELL, SIZES, STYLES, Scene, Thing

_COLUMNS = 11  # nouns in a row; each takes a block of two styles (rows) by two sizes (columns)


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("docs/tiny/storybook_sprites.png"))
    arguments = parser.parse_args()
    rows = -(-len(NOUNS) // _COLUMNS)
    gap, block = 4, 2 * CELL
    sheet = Image.new("RGB", (_COLUMNS * (block + gap), rows * (block + gap)), (250, 250, 250))
    for index, noun in enumerate(NOUNS):
        left, top = index % _COLUMNS * (block + gap), index // _COLUMNS * (block + gap)
        sheet.paste(_block(noun), (left, top))
    sheet.quantize(192, dither=Image.Dither.NONE).save(arguments.output, optimize=True)
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes")


def _block(noun: str) -> Image.Image:
    things = [
        Thing(noun=noun, cell=(row, column), style=style, size=size)
        for row, style in enumerate(STYLES)
        for column, size in enumerate(SIZES)
    ]
    return render(Scene(things=tuple(things))).crop((0, 0, 2 * CELL, 2 * CELL))


if __name__ == "__main__":
    main()
