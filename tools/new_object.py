"""The tutorial's new object: a corner, a shape that `shapes` was never shown (docs/tutorials/new_object.md).

`python tools/new_object.py images FOLDER` draws 20 captioned pictures of it in six colors, and beside them
a mixture that adds pictures and edits of the old world, so that nothing else is forgotten. `python
tools/new_object.py score FOLDER --lora LORA` asks for it where it was never shown, before and after, also in
the other two colors and beside another object, and reads from the pixels what was drawn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image, ImageDraw
from tyro.conf import Positional, arg

from deepgen.shapes.caption import ShapesClaim, caption, claim_about
from deepgen.shapes.read import read
from deepgen.shapes.render import render
from deepgen.shapes.scene import (
    BACKGROUNDS,
    CANVAS,
    CELLS,
    COLORS,
    SHAPES,
    SIZES,
    Object,
    ShapesScene,
    choose,
    sample_object,
    sample_offset,
)

NAME = "corner"
SHOWN_COLORS = ("red", "green", "blue", "yellow", "cyan", "purple")
HELD_OUT_COLORS = tuple(color for color in COLORS if color not in SHOWN_COLORS)
NUM_IMAGES = 20
KINDS = ("single", "position", "background", "size")
MIXTURE = """\
# A good third of the samples is new; captions and edits of the old world keep that in mind.
image: {rule: fix_pixels, image_size: 96, unit: 32}
tasks:
  generate:
    ratio: 3
    sources:
      new: {source: folder, path: ., weight: 1}
      old: {source: shapes, rows: 1200, weight: 1}
  edit:
    ratio: 1
    sources:
      old_edits: {source: shapes, rows: 400, task: edit}
"""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is asked for in words, and what has to hold."""

    kind: str
    text: str
    claim: ShapesClaim

    def is_right(self, image: Image.Image) -> bool:
        """Whether the picture reads as stated, with nothing missing and nothing extra."""
        scene = read(image, (*SHAPES, NAME)).scene
        return scene is not None and self.claim.holds(scene)


@dataclass(frozen=True, kw_only=True)
class Images:
    """Draw the 20 training pictures, their captions and the mixture file."""

    folder: Positional[Path]
    """Where they go; docs/tutorials/new_object.md calls it my_corners."""

    def run(self) -> None:
        """Write `00.png`, `00.txt`, ..., and `mixture.yaml`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for index in range(NUM_IMAGES):
            rng = np.random.default_rng((1, index))
            scene = _scene(rng, SHOWN_COLORS[index % len(SHOWN_COLORS)], cell=index % len(CELLS))
            prompt = _prompt(rng, scene, KINDS[index // len(SHOWN_COLORS) % len(KINDS)])
            render(scene).save(self.folder / f"{index:02}.png")
            (self.folder / f"{index:02}.txt").write_text(prompt.text + "\n")
        (self.folder / "mixture.yaml").write_text(MIXTURE)
        print(f"{NUM_IMAGES} pictures and {self.folder / 'mixture.yaml'}")


@dataclass(frozen=True, kw_only=True)
class Score:
    """Draw prompts that were not trained, with and without the LoRA, and count the right pictures."""

    folder: Positional[Path]
    """The training pictures, for the figure."""
    lora: Annotated[Path, arg(metavar="PATH")]
    """What `deepgen train export --lora-file` wrote."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")] = Path("outputs/new_object")
    """Where `scores.json` and `new_object.png` go."""
    model: str = "shapes"
    """What the LoRA was trained on."""
    preset: str | None = None
    """How both are drawn, as in `deepgen generate --preset`."""
    limit: int = 24
    """Prompts of each kind."""

    def run(self) -> None:
        """Print and write the share of right pictures by kind."""
        from deepgen.cli.loading import load_pipeline
        from deepgen.cli.options import ModelOptions

        prompts = test_prompts(self.limit)
        pipe: Any = load_pipeline(ModelOptions(model=self.model))
        pipe.set_progress_bar_config(disable=True)
        before = _draw(pipe, prompts, self.preset)
        pipe.load_lora_weights(self.lora)
        after = _draw(pipe, prompts, self.preset)

        scores = {"before": _accuracies(prompts, before), "after": _accuracies(prompts, after)}
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
        trained = [Image.open(file) for file in sorted(self.folder.glob("*.png"))]
        figure(trained, prompts, before, after).save(self.output / "new_object.png")
        for kind in scores["before"]:
            print(f"{kind:14} {scores['before'][kind]:.2f} before, {scores['after'][kind]:.2f} after")


def test_prompts(limit: int) -> list[Prompt]:
    """`limit` of each kind; no training picture has a corner of that color in that place.

    "new color" asks for colors that no training picture has anywhere, "together" for a corner and an old
    object.
    """
    prompts = []
    for kind in (*KINDS, "new color", "together"):
        for index in range(limit):
            rng = np.random.default_rng([2, index, *kind.encode()])
            colors = HELD_OUT_COLORS if kind == "new color" else SHOWN_COLORS
            color = choose(rng, colors)
            shown = [
                n % len(CELLS) for n in range(NUM_IMAGES) if SHOWN_COLORS[n % len(SHOWN_COLORS)] == color
            ]
            cells = [cell for cell in range(len(CELLS)) if cell not in shown]
            scene = _scene(rng, color, int(rng.choice(cells)))
            if kind == "together":
                other = sample_object(rng, int(rng.choice(scene.free_cells)))
                scene = replace(scene, objects=(*scene.objects, other))
            prompts.append(_prompt(rng, scene, kind))
    return prompts


def _scene(rng: np.random.Generator, color: str, cell: int) -> ShapesScene:
    size = choose(rng, tuple(SIZES))
    corner = Object(shape=NAME, color=color, size=size, cell=cell, offset=sample_offset(rng))
    return ShapesScene(background=choose(rng, tuple(BACKGROUNDS)), objects=(corner,))


def _prompt(rng: np.random.Generator, scene: ShapesScene, kind: str) -> Prompt:
    claim = claim_about(rng, scene, {"together": "two", "new color": "position"}.get(kind, kind))
    text = caption(rng, claim)
    while text.count(NAME) > 1:  # "a corner in the top left corner" is true and confusing
        text = caption(rng, claim)
    return Prompt(kind=kind, text=text, claim=claim)


def _draw(
    pipe: Any, prompts: list[Prompt], preset: str | None = None, batch_size: int = 16
) -> list[Image.Image]:
    images: list[Image.Image] = []
    options = {} if preset is None else {"preset": preset}
    for first in range(0, len(prompts), batch_size):
        texts = [prompt.text for prompt in prompts[first : first + batch_size]]
        seeds = list(range(first, first + len(texts)))
        images += pipe(texts, seed=seeds, height=CANVAS, width=CANVAS, **options).images
    return images


def _accuracies(prompts: list[Prompt], images: list[Image.Image]) -> dict[str, float]:
    """Share of right pictures by kind; "alone" is the mean of the kinds with nothing but a corner in a shown
    color.
    """
    right: dict[str, list[bool]] = {}
    for prompt, image in zip(prompts, images, strict=True):
        right.setdefault(prompt.kind, []).append(prompt.is_right(image))
    shares = {kind: float(np.mean(verdicts)) for kind, verdicts in right.items()}
    return {**shares, "alone": float(np.mean([shares[kind] for kind in KINDS]))}


def figure(
    trained: list[Image.Image],
    prompts: list[Prompt],
    before: list[Image.Image],
    after: list[Image.Image],
    columns: int = 10,
) -> Image.Image:
    """Three rows: training pictures, and the same prompts before and after; a green frame is right."""
    spread = [index * len(prompts) // columns for index in range(min(columns, len(prompts)))]
    rows: list[tuple[str, list[tuple[Image.Image, bool | None]]]] = [
        ("trained on", [(image, None) for image in trained[:columns]]),
        ("before", [(before[n], prompts[n].is_right(before[n])) for n in spread]),
        ("after", [(after[n], prompts[n].is_right(after[n])) for n in spread]),
    ]
    colors = {None: (160, 160, 160), True: (0, 160, 0), False: (210, 0, 0)}
    label, step = 80, CANVAS + 6
    sheet = Image.new("RGB", (label + columns * step, len(rows) * step), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, tiles) in enumerate(rows):
        draw.text((4, row * step + step // 2 - 6), name, fill="black")
        for column, (image, is_right) in enumerate(tiles):
            x, y = label + column * step, row * step
            draw.rectangle((x, y, x + step - 1, y + step - 1), fill=colors[is_right])
            sheet.paste(image, (x + 3, y + 3))
    return sheet


if __name__ == "__main__":
    tyro.cli(Images | Score).run()
