"""Pictures of the start page and the README, drawn by the embedded model: `docs/pictures/`.

    python tools/site_images.py                 draw, and write the figures of docs/index.md
    python tools/site_images.py --model NAME    with another model, once `DRAWN` and `EDITED` fit to it

For another model change `DRAWN` and `EDITED` below: names, prompts and seeds. Each picture is what the model
gives for its prompt and seed with its own defaults; nothing is retouched.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "pictures"
PAGE = ROOT / "docs" / "index.md"
MARK = "<!-- tools/site_images.py -->"
END = "<!-- end -->"
CELL, GAP, TEXT = 136, 10, 50  # pixels of the banner


@dataclass(frozen=True)
class Drawing:
    """A picture: its file, what it is asked for and its seed; an edit also names the picture it changes."""

    name: str
    prompt: str
    seed: int
    source: str = ""


DRAWN = [
    Drawing("circle", "a large red circle on a white background", 5),
    Drawing("diamonds", "three pink diamonds on a black background", 4),
    Drawing("relation", "a yellow star above a purple square", 1),
    Drawing("stars", "two blue stars on a white background", 3),
    Drawing("cross", "a large orange cross on a brown background", 1),
    Drawing("place", "a cyan star in the bottom right", 1),
]
EDITED = [
    Drawing("recolor", "make the circle blue", 1, "circle"),
    Drawing("move", "move the star to the bottom right", 1, "relation"),
    Drawing("replace", "replace the cross with a star", 1, "cross"),
]


def draw(model: str) -> None:
    """Draw everything, in the model's own size."""
    from deepgen import DeepGenPipeline

    pipe = DeepGenPipeline.from_pretrained(model)
    FOLDER.mkdir(exist_ok=True)
    for drawing in [*DRAWN, *EDITED]:
        given = {"image": FOLDER / f"{drawing.source}.png"} if drawing.source else {}
        pipe(drawing.prompt, seed=drawing.seed, **given).images[0].save(FOLDER / f"{drawing.name}.png")


def banner() -> Image.Image:
    """One picture of everything: generated ones in the first row, before and after of edits in the second."""
    width = (CELL + GAP) * len(DRAWN) - GAP
    canvas = Image.new("RGB", (width, 2 * CELL + TEXT + 24), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)

    def place(name: str, left: int, top: int) -> None:
        image = (
            Image.open(FOLDER / f"{name}.png").convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS)
        )
        canvas.paste(image, (left, top))
        pen.rectangle((left, top, left + CELL - 1, top + CELL - 1), outline="lightgray")

    for column, drawing in enumerate(DRAWN):
        left = column * (CELL + GAP)
        place(drawing.name, left, 0)
        pen.multiline_text((left, CELL + 3), textwrap.fill(drawing.prompt, 22), fill="black", font=font)
    for pair, drawing in enumerate(EDITED):
        left, top = 2 * pair * (CELL + GAP), CELL + TEXT
        place(drawing.source, left, top)
        place(drawing.name, left + CELL + GAP, top)
        pen.text((left + CELL + 1, top + CELL // 2 - 8), ">", fill="black", font=font)
        pen.text((left, top + CELL + 3), f"edit: {drawing.prompt}", fill="black", font=font)
    return canvas


def figures() -> str:
    """The start page's figures: a picture and its prompt; an edit shows before and after."""
    rows = ['<div class="pictures" markdown>', ""]
    for drawing in [*DRAWN, *EDITED]:
        kind = "edit" if drawing.source else "generate"
        images = [f"![{drawing.prompt}](pictures/{drawing.name}.png)"]
        if drawing.source:
            images.insert(0, f"![before](pictures/{drawing.source}.png)")
        rows += [f'<figure class="{kind}" markdown>', "", "\n".join(images), ""]
        rows += [f"<figcaption>{kind}: “{drawing.prompt}”</figcaption>", "</figure>", ""]
    return "\n".join([*rows, "</div>"])


def main() -> None:
    """Draw, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    draw(parser.parse_args().model)
    banner().save(FOLDER / "banner.png", optimize=True)
    text = PAGE.read_text(encoding="utf-8")
    block = re.compile(re.escape(MARK) + ".*?" + re.escape(END), re.DOTALL)
    if not block.search(text):
        raise ValueError(f"{PAGE} has no {MARK} ... {END}")
    PAGE.write_text(block.sub(lambda _: f"{MARK}\n{figures()}\n{END}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
