"""`make demo`: pictures of the small models inside this package, in the folder outputs/demo.

The one of flat shapes draws a picture and edits it. The one of the storybook shows its five abilities in one
strip: a scene, an edit of it, a word, a riddle, and an edit that has to be thought about.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.cli.loading import load_pipeline
from deepgen.cli.options import ModelOptions
from deepgen.data.png import image_grid, save_png

FOLDER = Path("outputs/demo")
PROMPT = "a red circle on a white background"
INSTRUCTION = "make the circle blue"
# What the strip shows, from left to right; an edit is of the scene that was drawn first.
SCENE = "a cat and a dog in a meadow"
STRIP = (
    ("scene", SCENE),
    ("edit", "replace the dog with a rabbit"),
    ("word", 'a sign that says "OPEN"'),
    ("riddle", "the animal that says moo"),
    ("edit that needs thought", "it starts to rain"),
)


def storybook_strip(pipe: Any, seed: int = 1) -> Image.Image:
    """The five pictures in a row, each with its prompt below it, twice as large as drawn."""
    from deepgen.tiny.evaluation.sheet import Tile, sheet

    scene = pipe(SCENE, seed=seed).images[0]
    tiles = []
    for name, prompt in STRIP:
        edited = {"image": scene} if name.startswith("edit") else {}
        image = scene if name == "scene" else pipe(prompt, seed=seed, **edited).images[0]
        tiles.append(Tile(image=image, caption=f"{name}: {prompt}"))
    return sheet([("", tiles)], caption_lines=4)


def main() -> None:
    """Draw, and say where the pictures are."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    pipe: Any = load_pipeline(ModelOptions(model="tiny"))
    drawn = pipe(PROMPT, seed=1).images[0]
    edited = pipe(INSTRUCTION, image=drawn, seed=1).images[0]
    for name, image in (("drawn", drawn), ("edited", edited), ("both", image_grid([drawn, edited]))):
        save_png(image, FOLDER / f"{name}.png")
    print(f"{FOLDER / 'drawn.png'}   {PROMPT}")
    print(f"{FOLDER / 'edited.png'}  {INSTRUCTION}")
    print(f"{FOLDER / 'both.png'}    side by side")
    save_png(storybook_strip(load_pipeline(ModelOptions(model="storybook"))), FOLDER / "strip.png")
    for name, prompt in STRIP:
        print(f"{name:24} {prompt}")
    print(FOLDER / "strip.png")


if __name__ == "__main__":
    main()
