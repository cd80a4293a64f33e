"""The whole storybook evaluation of a model: five abilities, twelve edits in a row, table, page and sheet.

Pictures are drawn and scored by the runner of all benchmarks, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.data.png import read_records, save_png
from deepgen.evaluation.benchmark import Settings
from deepgen.evaluation.models import Model
from deepgen.evaluation.report import read_results
from deepgen.evaluation.report_page import write_report
from deepgen.evaluation.runner import RunConfig, Workers, run
from deepgen.evaluation.scorers import Scorers
from deepgen.evaluation.store import write_json
from deepgen.tiny.evaluation.benchmark import StorybookBenchmark
from deepgen.tiny.evaluation.chains import (
    NAME,
    ChainReport,
    chain_sheet,
    draw_chains,
    sample_chains,
    score_chains,
)
from deepgen.tiny.evaluation.prompts import ABILITIES, prompts_of
from deepgen.tiny.evaluation.sheet import Tile, sheet
from deepgen.tiny.evaluation.summary import (
    LOOKUP_PROMPTS,
    StorybookPart,
    StorybookReport,
    look_up,
    summarize_ability,
    summarize_kinds,
)
from deepgen.tiny.evaluation.table import table
from deepgen.tiny.render import render

_CHAIN_SHARE = 4  # one chain of edits for so many prompts of a kind
_TILES = 8  # of a row of the sheet


@dataclass(frozen=True, kw_only=True)
class StorybookConfig:
    """How much is drawn.

    Attributes:
        output_dir: where everything goes.
        num_prompts: held-out prompts of each kind.
        num_seeds: pictures of each prompt, each from noise of its own.
        seed: of the noise.
        num_steps, guidance_scale: the model's own where None.
        batch_size: pictures in a call of the model.
        abilities: which of the five, by the names of the benchmark's variants.
        lookup_prompts: training prompts of each kind that the look-up knows.
    """

    output_dir: Path
    num_prompts: int = 96
    num_seeds: int = 1
    seed: int = 0
    num_steps: int | None = None
    guidance_scale: float | None = None
    batch_size: int = 16
    abilities: tuple[str, ...] = tuple(ABILITIES)
    lookup_prompts: int = LOOKUP_PROMPTS

    def __post_init__(self) -> None:
        for name in ("num_prompts", "num_seeds", "batch_size", "lookup_prompts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        unknown = [name for name in self.abilities if name not in ABILITIES]
        if unknown or not self.abilities:
            raise ValueError(
                f"abilities must be of {', '.join(ABILITIES)}, got {', '.join(unknown) or 'none'}"
            )

    @property
    def settings(self) -> Settings:
        """For the runner."""
        return replace(
            StorybookBenchmark.settings,
            num_inference_steps=self.num_steps,
            guidance_scale=self.guidance_scale,
            num_samples=self.num_seeds,
            seed=self.seed,
        )


def evaluate(
    model: Model,
    config: StorybookConfig,
    say: Callable[[str], None] = lambda text: None,
    team: Workers | None = None,
) -> StorybookReport | None:
    """Draw, score and write storybook.json, .md, .html and .png into the output folder.

    Args:
        model: draws.
        config: what.
        say: is called with what begins.
        team: processes that divide the pictures; by default there is one.

    Returns:
        The report on the first process, None on the others.

    Raises:
        ValueError: the folder holds a run of another model or other settings.
    """
    runs = RunConfig(output_dir=config.output_dir, data_dir=Path(), batch_size=config.batch_size)
    results: dict[str, Mapping[str, Any]] = {}
    timed = _Timed(model)
    for name in config.abilities:
        say(f"storybook: {name}")
        found = run(
            StorybookBenchmark(variant=name, num_prompts=config.num_prompts),
            timed,
            config.settings,
            runs,
            Scorers(),
            team,
        )
        if found is not None:  # the first process adds up
            results[name] = found
    chains, rows = None, []
    if "editing" in config.abilities:
        chains, rows = _chains(timed, config, say, team)
    if team is not None and team.rank != 0:
        return None
    report = _report(timed, config, results, chains)
    _write(report, config, results, rows)
    return report


class _Timed:
    """A model that counts its pictures and its seconds."""

    is_seeded, is_batched = True, True

    def __init__(self, model: Model) -> None:
        self._model, self.name, self.fingerprint = model, model.name, model.fingerprint
        self._seconds, self._images = 0.0, 0

    def draw(self, items: Any, seeds: Any, settings: Settings, generator: Any = None) -> list[Image.Image]:
        """The model's pictures."""
        started = time.perf_counter()
        images = self._model.draw(items, seeds, settings, generator)
        self._seconds += time.perf_counter() - started
        self._images += len(images)
        return images

    @property
    def seconds_per_image(self) -> float | None:
        """None where every picture was there already."""
        return self._seconds / self._images if self._images else None


def _chains(
    model: Model, config: StorybookConfig, say: Callable[[str], None], team: Workers | None
) -> tuple[ChainReport, list[tuple[str, list[Tile]]]]:
    chains = sample_chains(max(1, config.num_prompts // _CHAIN_SHARE))
    folder = config.output_dir / NAME.replace(" ", "-")
    say(f"storybook: {NAME}")
    drawn = draw_chains(model, chains, config.settings, folder, config.batch_size, team=team)
    rows = []
    for place, (chain, row) in enumerate(zip(chains, chain_sheet(chains, drawn), strict=False)):
        texts = ["", *(step.text for step in chain.steps)]
        tiles = [
            Tile(image=image, is_right=right, caption=text)
            for (image, right), text in zip(row, texts, strict=True)
        ]
        rows.append((NAME if place == 0 else "", tiles))
    return score_chains(chains, drawn), rows


def _report(
    model: _Timed,
    config: StorybookConfig,
    results: Mapping[str, Mapping[str, Any]],
    chains: ChainReport | None,
) -> StorybookReport:
    asked = {name: prompts_of(ABILITIES[name], config.num_prompts) for name in results}
    lookups = look_up(asked, config.lookup_prompts)
    abilities: list[StorybookPart] = []
    kinds: list[StorybookPart] = []
    for name, result in results.items():
        rows = [row for item in result["items"] for row in item["rows"]]
        found = summarize_kinds(name, rows, lookups)
        kinds += found
        abilities.append(summarize_ability(name, rows, found, lookups))
    return StorybookReport(
        model=model.name,
        seed=config.seed,
        num_seeds=config.num_seeds,
        num_prompts=config.num_prompts,
        num_steps=config.num_steps,
        abilities=tuple(abilities),
        kinds=tuple(kinds),
        chains=chains,
        seconds_per_image=model.seconds_per_image,
    )


def _write(
    report: StorybookReport,
    config: StorybookConfig,
    results: Mapping[str, Mapping[str, Any]],
    chain_rows: Sequence[tuple[str, list[Tile]]],
) -> None:
    folder = config.output_dir
    write_json(folder / "storybook.json", report.to_dict())
    folders = [folder / f"storybook-{name}" for name in results]
    write_report(read_results(folders), folder / "storybook.html")  # writes a .md of its own beside it
    (folder / "storybook.md").write_text(table(report), encoding="utf-8")
    rows = [row for name, result in results.items() for row in _rows(name, result, config)]
    made = sheet([*rows, *chain_rows], caption_lines=4, scale=1)
    save_png(made, folder / "storybook.png", read_records(made))


def _rows(name: str, result: Mapping[str, Any], config: StorybookConfig) -> list[tuple[str, list[Tile]]]:
    """A row a kind: the first pictures of its held-out prompts, of edits each with its source before it."""
    prompts = {prompt.id: prompt for prompt in prompts_of(ABILITIES[name], config.num_prompts)}
    rows: dict[str, list[Tile]] = defaultdict(list)
    for item in result["items"]:
        prompt = prompts[item["item"]]
        if prompt.is_direct or prompt.level == "trained" or not item["pictures"]:
            continue
        source = prompt.example.source
        tiles = rows[prompt.example.kind]
        if len(tiles) + (1 if source is None else 2) > _TILES:
            continue
        if source is not None:
            tiles.append(Tile(image=render(source), caption=prompt.text, is_source=True))
        with Image.open(config.output_dir / f"storybook-{name}" / item["pictures"][0]) as image:
            is_right = item["rows"][0]["is_right"]
            caption = prompt.text if source is None else ""
            tiles.append(Tile(image=image.convert("RGB"), is_right=is_right, caption=caption))
    return list(rows.items())
