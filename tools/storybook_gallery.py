"""Pictures of a storybook model that nobody chose: a row an ability for the docs, and sheets of a hundred.

    python tools/storybook_gallery.py MODEL -o outputs/gallery

Prompts are held out from training and come in turn from the kinds of an ability; each is drawn once. Failures
stay in, with a red frame. Of edits the source stands before the result.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from deepgen.cli.loading import load_pipeline
from deepgen.cli.options import ModelOptions
from deepgen.evaluation.models import Model, PipelineModel
from deepgen.evaluation.run_config import chunked
from deepgen.evaluation.seeds import seed_of
from deepgen.tiny.evaluation.benchmark import StorybookBenchmark
from deepgen.tiny.evaluation.prompts import ABILITIES, StorybookPrompt, kinds_of, prompts_of
from deepgen.tiny.evaluation.scores import score_image
from deepgen.tiny.evaluation.sheet import Tile, sheet
from deepgen.tiny.evaluation.table import ABILITY_NAMES
from deepgen.tiny.example import Ability
from deepgen.tiny.render import render

_CAPTION_LINES = 4
_COLUMNS = 10  # of a sheet, in pictures


def choose_prompts(ability: Ability, count: int) -> list[StorybookPrompt]:
    """So many held-out prompts, one of each kind in turn."""
    by_kind: dict[str, list[StorybookPrompt]] = defaultdict(list)
    for prompt in prompts_of(ability, -(-count // len(kinds_of(ability))) + 1):
        if prompt.level != "trained" and not prompt.is_direct:
            by_kind[prompt.example.kind].append(prompt)
    return list(_in_turn(list(by_kind.values())))[:count]


def _in_turn(groups: Sequence[Sequence[StorybookPrompt]]) -> Iterator[StorybookPrompt]:
    for place in range(max(map(len, groups))):
        yield from (group[place] for group in groups if place < len(group))


def draw_tiles(
    model: Model, prompts: Sequence[StorybookPrompt], *, seed: int, num_steps: int | None, batch_size: int
) -> list[list[Tile]]:
    """Of each prompt its tiles: the result, of edits with the source before it."""
    settings = replace(StorybookBenchmark.settings, num_inference_steps=num_steps, seed=seed)
    tiles = []
    for chunk in chunked(list(prompts), batch_size):
        items = [prompt.to_item() for prompt in chunk]
        seeds = [seed_of(seed, "gallery", item.id, 0) for item in items]
        for prompt, image in zip(chunk, model.draw(items, seeds, settings), strict=True):
            verdict = score_image(prompt.example.claim, image)
            result = Tile(image=image, is_right=verdict.is_right)
            source = prompt.example.source
            if source is None:
                tiles.append([replace(result, caption=prompt.text)])
            else:
                tiles.append([Tile(image=render(source), caption=prompt.text, is_source=True), result])
    return tiles


def write_gallery(
    model: Model,
    folder: Path,
    *,
    row: int = 8,
    count: int = 100,
    seed: int = 0,
    num_steps: int | None = None,
    batch_size: int = 16,
) -> list[Path]:
    """gallery.png with a row an ability of so many pictures, and a sheet of `count` results an ability."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, written = [], []
    for name, ability in ABILITIES.items():
        groups = draw_tiles(
            model,
            choose_prompts(ability, max(count, row)),
            seed=seed,
            num_steps=num_steps,
            batch_size=batch_size,
        )
        width = len(groups[0])
        shown = [tile for group in groups[: max(1, row // width)] for tile in group]
        rows.append((ABILITY_NAMES[name], shown))
        lines = chunked(groups[:count], max(1, _COLUMNS // width))
        written.append(folder / f"sheet-{name}.png")
        sheet([("", [tile for group in line for tile in group]) for line in lines],
              caption_lines=_CAPTION_LINES).save(written[-1])  # fmt: skip
    sheet(rows, caption_lines=_CAPTION_LINES).save(folder / "gallery.png")
    return [folder / "gallery.png", *written]


def main() -> None:
    """Draw and say where the pictures are."""
    parser = argparse.ArgumentParser(description="Unchosen pictures of a storybook model.")
    parser.add_argument("model", help="`tiny`, a folder or a Hub name")
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/gallery"))
    parser.add_argument("--row", type=int, default=8, help="pictures of a row of gallery.png")
    parser.add_argument("--count", type=int, default=100, help="results of a sheet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=16)
    given = parser.parse_args()
    for name in ("row", "count", "batch_size"):
        if getattr(given, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(given, name)}")
    model = PipelineModel(
        given.model, load_pipeline(ModelOptions(model=given.model)), "gallery", is_deepgen=True
    )
    written = write_gallery(
        model,
        given.output,
        row=given.row,
        count=given.count,
        seed=given.seed,
        num_steps=given.steps,
        batch_size=given.batch_size,
    )
    for path in written:
        print(path)


if __name__ == "__main__":
    main()
