"""Pictures of the start page, drawn by the embedded model: `docs/pictures/`.

    python tools/site_images.py                 draw, and write the figures of docs/index.md
    python tools/site_images.py --model NAME    with another model, once `DRAWN` and `EDITED` fit to it

For another model change `DRAWN` and `EDITED` below: names, prompts and seeds. Each picture is what the model
gives for its prompt and seed with its own defaults; nothing is retouched.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "pictures"
PAGE = ROOT / "docs" / "index.md"
MARK = "<!-- tools/site_images.py -->"
END = "<!-- end -->"


@dataclass(frozen=True)
class Drawing:
    """A picture: its file, what it is asked for and its seed; an edit also names the picture it changes."""

    name: str
    prompt: str
    seed: int
    source: str = ""


DRAWN = [
    Drawing("cat", "a large cat in a meadow", 1),
    Drawing("relation", "an owl above a bicycle", 1),
    Drawing("counting", "three strawberries", 1),
    Drawing("place", "a glossy rocket in the top right at night", 1),
    Drawing("word", 'a sign that says "OPEN"', 1),
    Drawing("riddle", "the animal that says moo", 1),
]
EDITED = [
    Drawing("replace", "replace the cat with a dog", 1, "cat"),
    Drawing("move", "move the owl to the bottom right", 1, "relation"),
    Drawing("rain", "it starts to rain", 1, "riddle"),
]


def draw(model: str) -> None:
    """Draw everything, in the model's own size."""
    from deepgen import DeepGenPipeline

    pipe = DeepGenPipeline.from_pretrained(model)
    FOLDER.mkdir(exist_ok=True)
    for drawing in [*DRAWN, *EDITED]:
        given = {"image": FOLDER / f"{drawing.source}.png"} if drawing.source else {}
        pipe(drawing.prompt, seed=drawing.seed, **given).images[0].save(FOLDER / f"{drawing.name}.png")


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
    text = PAGE.read_text(encoding="utf-8")
    block = re.compile(re.escape(MARK) + ".*?" + re.escape(END), re.DOTALL)
    if not block.search(text):
        raise ValueError(f"{PAGE} has no {MARK} ... {END}")
    PAGE.write_text(block.sub(lambda _: f"{MARK}\n{figures()}\n{END}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
