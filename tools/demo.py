"""`make demo`: draw a picture with the small model inside the package, edit it, and put both side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepgen.commands.loading import load_pipeline
from deepgen.commands.options import ModelOptions
from deepgen.data.png import image_grid, save_png

FOLDER = Path("outputs/demo")
PROMPT = "a red circle on a white background"
INSTRUCTION = "make the circle blue"


def main() -> None:
    """Write three pictures and say where they are."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    pipe: Any = load_pipeline(ModelOptions(model="tiny"))
    drawn = pipe(PROMPT, seed=1).images[0]
    edited = pipe(INSTRUCTION, image=drawn, seed=1).images[0]
    for name, picture in (("drawn", drawn), ("edited", edited), ("both", image_grid([drawn, edited]))):
        save_png(picture, FOLDER / f"{name}.png")
    print(f"{FOLDER / 'drawn.png'}   {PROMPT}")
    print(f"{FOLDER / 'edited.png'}  {INSTRUCTION}")
    print(f"{FOLDER / 'both.png'}    side by side")


if __name__ == "__main__":
    main()
