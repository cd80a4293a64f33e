"""The tutorial's new noun: a drawing of your own becomes a thing of the storybook world
(docs/tutorials/new_noun.md).

`python tools/new_noun.py pictures DRAWING.png FOLDER --noun NOUN` makes captioned scenes with the drawing in
both sizes on the world's grounds, and beside them a mixture that adds captions and edits of the world as it
is, so that nothing else is forgotten. `python tools/new_noun.py score FOLDER --model MODEL --lora LORA` asks
for it in wordings and scenes that were not trained, before and after, reads from the pixels what was drawn,
and puts both side by side.

Captions are the world's own about another thing, in whose stead the new noun is put.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image
from tyro.conf import Positional, arg

from deepgen.tiny.added_drawing import add_drawing
from deepgen.tiny.captions import sample_caption
from deepgen.tiny.claims import Claim, holds
from deepgen.tiny.evaluation.sheet import Tile, sheet
from deepgen.tiny.language import SYNONYMS, article, plural
from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.read import read
from deepgen.tiny.render import CANVAS, render
from deepgen.tiny.scene import STYLES, Scene
from deepgen.tiny.templates import Templates

KINDS = ("single", "position", "ground", "size", "counting", "two")
# Nouns that it can stand for: captions say them by one word, with a usual plural.
_STAND_INS = frozenset(noun for noun in NOUNS if noun not in SYNONYMS and plural(noun) == f"{noun}s")
_SHOWN = 8  # pictures of a row of the figure
DRAWING, NOUN = "drawing.png", "noun.txt"  # in `about` of the folder, out of the way of its pictures
MIXTURE = """\
# A good third of the samples is new; captions and edits of the world as it is keep the rest in mind.
image: {rule: fix_pixels, image_size: 96, unit: 32}
tasks:
  generate:
    ratio: 3
    sources:
      new: {source: folder, path: pictures, weight: 1}
      old: {source: storybook, group: caption, rows: 1200, weight: 1}
  edit:
    ratio: 1
    sources:
      old_edits: {source: storybook, group: edit, rows: 400}
"""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is asked for in words, what has to hold, and a scene in which it does."""

    kind: str
    text: str
    claim: Claim
    scene: Scene

    def is_right(self, image: Image.Image, templates: Templates) -> bool:
        """Whether the picture reads as stated, with nothing missing and nothing extra."""
        fitted = image if image.size == (CANVAS, CANVAS) else image.resize((CANVAS, CANVAS))
        scene = read(fitted, templates).scene
        return scene is not None and holds(self.claim, scene).is_right


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Draw scenes with a drawing of your own, their captions and the mixture file."""

    drawing: Positional[Path]
    """A PNG of one thing, on transparent or white ground."""
    folder: Positional[Path]
    """Where pictures and mixture go."""
    noun: str
    """What it is called: one or two words that the world does not know."""
    count: int = 60
    """Scenes to draw."""

    def run(self) -> None:
        """Write `pictures/000.png`, `pictures/000.txt`, …, `mixture.yaml` and what `score` needs."""
        if self.count < 1:
            raise ValueError(f"--count must be at least 1, got {self.count}")
        added = add_drawing(self.drawing, self.noun)
        pictures, about = self.folder / "pictures", self.folder / "about"
        for folder in (pictures, about):
            folder.mkdir(parents=True, exist_ok=True)
        for index, prompt in enumerate(training_prompts(self.noun, self.count)):
            render(prompt.scene, added).save(pictures / f"{index:03}.png")
            (pictures / f"{index:03}.txt").write_text(prompt.text + "\n")
        shutil.copyfile(self.drawing, about / DRAWING)
        (about / NOUN).write_text(self.noun + "\n")
        (self.folder / "mixture.yaml").write_text(MIXTURE)
        print(f"{self.count} pictures and {self.folder / 'mixture.yaml'}")


@dataclass(frozen=True, kw_only=True)
class Score:
    """Draw prompts that were not trained, with and without the LoRA, and count the right pictures."""

    folder: Positional[Path]
    """What `pictures` made."""
    model: Annotated[str, arg(metavar="MODEL")]
    """The model that was fine-tuned: a folder, or a name."""
    lora: Annotated[Path, arg(metavar="PATH")]
    """What `deepgen train export --lora-file` wrote."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")] = Path("outputs/new_noun")
    """Where `scores.json` and `new_noun.png` go."""
    limit: int = 16
    """Prompts of each kind."""
    steps: int | None = None
    """Steps of the solver; default the model's own."""

    def run(self) -> None:
        """Print and write the share of right pictures by kind, and the pictures side by side."""
        from deepgen.cli.loading import load_pipeline
        from deepgen.cli.options import ModelOptions

        noun = (self.folder / "about" / NOUN).read_text().strip()
        templates = Templates(add_drawing(self.folder / "about" / DRAWING, noun))
        prompts = test_prompts(noun, self.limit)
        pipe: Any = load_pipeline(ModelOptions(model=self.model))
        pipe.set_progress_bar_config(disable=True)
        before = _draw(pipe, prompts, self.steps)
        pipe.load_lora_weights(self.lora)
        after = _draw(pipe, prompts, self.steps)

        scores = {"before": _shares(prompts, before, templates), "after": _shares(prompts, after, templates)}
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
        trained = sorted((self.folder / "pictures").glob("*.png"))[:_SHOWN]
        figure([Image.open(file) for file in trained], prompts, before, after, templates).save(
            self.output / "new_noun.png"
        )
        for kind in scores["before"]:
            print(f"{kind:10} {scores['before'][kind]:.2f} before, {scores['after'][kind]:.2f} after")
        print(self.output / "new_noun.png")


def training_prompts(noun: str, count: int) -> list[Prompt]:
    """Of each kind in turn, in wordings that the world trains."""
    return [_prompt(np.random.default_rng((1, index)), noun, index, is_last=False) for index in range(count)]


def test_prompts(noun: str, limit: int) -> list[Prompt]:
    """`limit` of each kind, in the wordings that are never trained."""
    return [
        _prompt(np.random.default_rng((2, index)), noun, index, is_last=True)
        for index in range(limit * len(KINDS))
    ]


def _prompt(rng: np.random.Generator, noun: str, index: int, *, is_last: bool) -> Prompt:
    kind = KINDS[index % len(KINDS)]
    while True:
        example = sample_caption(rng, kind)
        things = example.target.things
        if things[0].noun in _STAND_INS and example.origin.is_last_wording == is_last:
            break
    assert isinstance(example.claim, Claim)
    other = things[0].noun
    stood_in = tuple(
        replace(thing, noun=noun, style=STYLES[0]) if thing.noun == other else thing for thing in things
    )
    claims = tuple(
        replace(stated, nouns=(noun,)) if stated.nouns == (other,) else stated
        for stated in example.claim.things
    )
    return Prompt(
        kind=kind,
        text=put_in(example.text, other, noun),
        claim=replace(example.claim, things=claims),
        scene=replace(example.target, things=stood_in),
    )


def put_in(text: str, other: str, noun: str) -> str:
    """A caption about the other thing as one about the noun: the article before it changes, too."""
    text = re.sub(rf"\b{plural(other)}\b", plural(noun), text)
    text = re.sub(rf"\ban? {other}\b", article(noun), text)
    return re.sub(rf"\b{other}\b", noun, text)


def _draw(pipe: Any, prompts: list[Prompt], num_steps: int | None, batch_size: int = 16) -> list[Image.Image]:
    images: list[Image.Image] = []
    settings = {} if num_steps is None else {"num_inference_steps": num_steps}
    for first in range(0, len(prompts), batch_size):
        texts = [prompt.text for prompt in prompts[first : first + batch_size]]
        seeds = list(range(first, first + len(texts)))
        images += pipe(texts, seed=seeds, height=CANVAS, width=CANVAS, **settings).images
    return images


def _shares(prompts: list[Prompt], images: list[Image.Image], templates: Templates) -> dict[str, float]:
    """Share of right pictures by kind."""
    right: dict[str, list[bool]] = {}
    for prompt, image in zip(prompts, images, strict=True):
        right.setdefault(prompt.kind, []).append(prompt.is_right(image, templates))
    return {kind: float(np.mean(verdicts)) for kind, verdicts in right.items()}


def figure(
    trained: list[Image.Image],
    prompts: list[Prompt],
    before: list[Image.Image],
    after: list[Image.Image],
    templates: Templates,
) -> Image.Image:
    """Three rows: training pictures, and the same prompts before and after; a green frame is right."""
    spread = [index * len(prompts) // _SHOWN for index in range(min(_SHOWN, len(prompts)))]

    def tiles(images: list[Image.Image], has_caption: bool) -> list[Tile]:
        return [
            Tile(
                image=images[n],
                is_right=prompts[n].is_right(images[n], templates),
                caption=prompts[n].text if has_caption else "",
            )
            for n in spread
        ]

    rows = [
        ("trained on", [Tile(image=image) for image in trained]),
        ("before", tiles(before, has_caption=False)),
        ("after", tiles(after, has_caption=True)),
    ]
    return sheet(rows, caption_lines=4)


def main() -> None:
    """Run one of the two; wrong arguments and drawings are told in a line."""
    chosen = tyro.cli(Pictures | Score)
    try:
        chosen.run()
    except (ValueError, OSError) as error:
        raise SystemExit(f"new_noun: {error}") from error


if __name__ == "__main__":
    main()
