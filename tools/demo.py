"""`make demo`: pictures of the small model inside this package, in the folder outputs/demo.

A scene, an edit of it, a word, a riddle, and an edit that has to be thought about: five abilities, each a
picture, and all of them in one strip.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.cli.loading import load_pipeline
from deepgen.cli.options import ModelOptions
from deepgen.data.png import save_png

FOLDER = Path("outputs/demo")
# What the strip shows, from left to right; an edit is of the scene that was drawn first.
SCENE = "a cat and a dog in a meadow"
STRIP = (
    ("scene", SCENE),
    ("edit", "replace the dog with a rabbit"),
    ("word", 'a sign that says "OPEN"'),
    ("riddle", "the animal that says moo"),
    ("edit that needs thought", "it starts to rain"),
)


def draw_strip(pipe: Any, seed: int = 1) -> dict[str, Image.Image]:
    """Pictures by file name: the five of `STRIP`, and the strip of them, each with its prompt below it and
    twice as large as drawn.
    """
    from deepgen.tiny.evaluation.sheet import Tile, sheet

    scene = pipe(SCENE, seed=seed).images[0]
    images, tiles = {}, []
    for name, prompt in STRIP:
        edited = {"image": scene} if name.startswith("edit") else {}
        image = scene if name == "scene" else pipe(prompt, seed=seed, **edited).images[0]
        images[f"{name.split()[-1]}.png"] = image
        tiles.append(Tile(image=image, caption=f"{name}: {prompt}"))
    return images | {"strip.png": sheet([("", tiles)], caption_lines=4)}


def main() -> None:
    """Draw, and say where the pictures are."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    pipe: Any = load_pipeline(ModelOptions(model="tiny"))
    images = draw_strip(pipe)
    for file, image in images.items():
        save_png(image, FOLDER / file)
    for file, (name, prompt) in zip(images, STRIP, strict=False):
        print(f"{FOLDER / file!s:26} {name}: {prompt}")
    print(f"{FOLDER / 'strip.png'!s:26} all five")


if __name__ == "__main__":
    main()
