"""The shapes benchmark: prompts of the flat world, scored exactly from pixels.

Prompts come from the held-out side of the split, which training never draws. A generated picture is right
when every stated property holds and nothing extra is there; an edit is right when the picture is the target
scene. `kept` is the share of objects an edit should leave alone that are still what and where they were, and
the PSNR compares the cells an edit should leave alone with the source.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from deepgen.data.png import attach_records_of, read_records, save_png
from deepgen.evaluation.benchmark import Benchmark, Item, ItemScore, Protocol, Settings
from deepgen.evaluation.scorers import Scorers
from deepgen.evaluation.statistics import seeds_note, share_interval
from deepgen.moved import renamed
from deepgen.shapes.caption import (
    EDIT_KINDS,
    ShapesClaim,
    ShapesEdit,
    caption,
    instruction,
    sample_claim,
    sample_edit,
)
from deepgen.shapes.read import read
from deepgen.shapes.render import render
from deepgen.shapes.scene import CANVAS
from deepgen.shapes.score import is_right, kept_share, psnr_outside

version = "1"
_OPPOSITES = {"below": "above", "right of": "left of"}

GENERATION_KINDS = ("single", "two", "relation", "counting", "position", "background", "size", "all")


@dataclass(frozen=True, kw_only=True)
class ShapesPrompt:
    """One item: what is asked in words, what has to hold, and for an edit what it starts from."""

    kind: str  # an edit's kind is prefixed with "edit "
    text: str
    claim: ShapesClaim
    edit: ShapesEdit | None = None

    @property
    def claim_key(self) -> str:
        """Equal where the same has to hold, in whatever words; an edit is about a picture of its own."""
        objects = list(map(str, self.claim.objects))
        relation = self.claim.relation
        if relation in _OPPOSITES:  # a above b is b below a
            relation, objects = _OPPOSITES[relation], [objects[1], objects[0], *objects[2:]]
        elif relation is None:
            objects.sort()
        source = None if self.edit is None else self.edit.source
        return f"{objects} {relation} {self.claim.background} {source}"

    @property
    def reference(self) -> Image.Image | None:
        """The picture to edit."""
        return None if self.edit is None else render(self.edit.source)


@dataclass(frozen=True, kw_only=True)
class ShapesScore:
    """The verdict on one picture; `kept` and `psnr` are None where an edit leaves nothing to compare."""

    is_right: bool
    kept: float | None = None
    psnr: float | None = None


@dataclass(frozen=True, kw_only=True)
class KindScore:
    """Right pictures of one kind; the interval is bootstrapped over its distinct claims."""

    kind: str
    num_right: int
    num_total: int
    num_claims: int
    interval: tuple[float, float]

    @classmethod
    def of(cls, kind: str, verdicts: Sequence[tuple[str, bool]]) -> KindScore:
        """From each picture's claim, and whether it is right."""
        claims: dict[str, list[bool]] = {}
        for claim, is_right_ in verdicts:
            claims.setdefault(claim, []).append(is_right_)
        return cls(
            kind=kind,
            num_right=sum(map(sum, claims.values())),
            num_total=len(verdicts),
            num_claims=len(claims),
            interval=share_interval(claims),
        )

    @property
    def accuracy(self) -> float:
        """Share of right pictures."""
        return self.num_right / self.num_total


@dataclass(frozen=True, kw_only=True)
class ShapesReport:
    """Scores by kind and what they were measured with. `str` gives the table."""

    kinds: tuple[KindScore, ...]
    kept: float
    psnr: float
    seconds_per_image: float
    seed: int
    num_steps: int | None
    num_seeds: int = 1

    @property
    def edit_accuracy(self) -> float:
        """Mean of the edit kinds."""
        return float(np.mean([k.accuracy for k in self.kinds if k.kind.startswith("edit ")]))

    @property
    def generation_accuracy(self) -> float:
        """Mean of the generation kinds."""
        return float(np.mean([k.accuracy for k in self.kinds if not k.kind.startswith("edit ")]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "benchmark": "shapes",
            "version": version,
            "seed": self.seed,
            "num_seeds": self.num_seeds,
            "num_steps": self.num_steps,
            "generation_accuracy": round(self.generation_accuracy, 4),
            "edit_accuracy": round(self.edit_accuracy, 4),
            "kept": round(self.kept, 4),
            "psnr": round(self.psnr, 2),
            "seconds_per_image": round(self.seconds_per_image, 3),
            "kinds": {
                k.kind: {
                    "accuracy": round(k.accuracy, 4),
                    "interval": [round(x, 4) for x in k.interval],
                    "num_right": k.num_right,
                    "num_total": k.num_total,
                    "num_claims": k.num_claims,
                }
                for k in self.kinds
            },
        }

    def __str__(self) -> str:
        """One line per kind, then the means."""
        seeds = f"seed {self.seed}" if self.num_seeds == 1 else f"{self.num_seeds} seeds from {self.seed}"
        lines = [f"shapes {version}, {seeds}, steps {self.num_steps or 'default'}"]
        for k in self.kinds:
            low, high = k.interval
            lines.append(
                f"{k.kind:16} {k.accuracy:5.2f}  [{low:.2f}, {high:.2f}]  {k.num_right}/{k.num_total}"
                f"  {k.num_claims} claims"
            )
        lines.append(f"{'generation':16} {self.generation_accuracy:5.2f}")
        lines.append(
            f"{'editing':16} {self.edit_accuracy:5.2f}  kept {self.kept:.2f}, PSNR outside {self.psnr:.1f} dB"
        )
        lines.append(f"{self.seconds_per_image:.2f} s per image")
        if note := seeds_note(self.num_seeds):
            lines.append(note)
        return "\n".join(lines)


def prompts(limit_per_kind: int = 48, seed: int = 0) -> list[ShapesPrompt]:
    """The benchmark's items, by kind: `limit_per_kind` of each generation kind, half as many of each edit."""
    items = []
    for kind in GENERATION_KINDS:
        for index in range(limit_per_kind):
            rng = _rng(seed, kind, index)
            claim, _ = sample_claim(rng, kind, "test")
            items.append(ShapesPrompt(kind=kind, text=caption(rng, claim), claim=claim))
    for kind in EDIT_KINDS:
        for index in range(max(1, limit_per_kind // 2)):
            rng = _rng(seed, f"edit {kind}", index)
            edit = sample_edit(rng, kind, "test")
            items.append(
                ShapesPrompt(kind=f"edit {kind}", text=instruction(rng, edit), claim=edit.claim, edit=edit)
            )
    return items


def _rng(seed: int, kind: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, index, *kind.encode()])


def score(prompt: ShapesPrompt, image: Image.Image) -> ShapesScore:
    """The verdict on one 96x96 picture."""
    reading = read(image)
    right = is_right(prompt.claim, reading)
    if prompt.edit is None:
        return ShapesScore(is_right=right)
    return ShapesScore(
        is_right=right, kept=kept_share(prompt.edit, reading), psnr=psnr_outside(prompt.edit, image)
    )


def evaluate(
    pipe: Callable[..., Any],
    *,
    limit_per_kind: int = 48,
    batch_size: int = 16,
    num_steps: int | None = None,
    seed: int = 0,
    num_seeds: int = 1,
    output_dir: Path | None = None,
    **options: Any,
) -> ShapesReport:
    """Draw the benchmark with a pipeline and score it.

    Args:
        pipe: called as `pipe(prompts, image=None or [[picture], ...], seed=[...], num_inference_steps=...,
            height=96, width=96, output_type="pil", **options)`, returning an object with `images`.
        limit_per_kind: items of each generation kind; edits get half as many per kind.
        batch_size: pictures per call.
        num_steps: solver steps; the pipeline's own default when None.
        seed: of the items and of the noise.
        num_seeds: pictures of each item, each from noise of its own; figures are means over all of them.
        output_dir: where shapes.json and the picture grid shapes.png go, if anywhere.
        **options: further arguments of every call, such as `guidance_scale`.
    """
    items = prompts(limit_per_kind, seed)
    generations = [item for item in items if item.edit is None]
    edits = [item for item in items if item.edit is not None]
    images: dict[int, list[Image.Image]] = {}
    start = time.perf_counter()
    for group, noise in product((generations, edits), range(seed, seed + num_seeds)):
        for first in range(0, len(group), batch_size):
            batch = group[first : first + batch_size]
            drawn = pipe(
                [item.text for item in batch],
                image=None if batch[0].edit is None else [[item.reference] for item in batch],
                seed=[noise * 100_000 + first + k for k in range(len(batch))],
                num_inference_steps=num_steps,
                height=CANVAS,
                width=CANVAS,
                output_type="pil",
                **options,
            ).images
            for item, image in zip(batch, drawn, strict=True):
                images.setdefault(id(item), []).append(image)
    seconds = (time.perf_counter() - start) / len(items) / num_seeds
    pictures = [images[id(item)][0] for item in items]
    report = summarize(
        [item for item in items for _ in range(num_seeds)],
        [image for item in items for image in images[id(item)]],
        seconds_per_image=seconds,
        seed=seed,
        num_steps=num_steps,
        num_seeds=num_seeds,
    )
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "shapes.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n")
        grid = image_grid(items, pictures)
        save_png(grid, output_dir / "shapes.png", read_records(grid))
    return report


def summarize(
    items: Sequence[ShapesPrompt],
    images: Sequence[Image.Image],
    *,
    seconds_per_image: float = 0.0,
    seed: int = 0,
    num_steps: int | None = None,
    num_seeds: int = 1,
) -> ShapesReport:
    """Scores of the items' pictures, by kind in the items' order; an item may stand there several times."""
    scores = [score(item, image) for item, image in zip(items, images, strict=True)]
    kinds = []
    for kind in dict.fromkeys(item.kind for item in items):
        of_kind = [(item, s) for item, s in zip(items, scores, strict=True) if item.kind == kind]
        kinds.append(KindScore.of(kind, [(item.claim_key, s.is_right) for item, s in of_kind]))
    return ShapesReport(
        kinds=tuple(kinds),
        kept=_mean([s.kept for s in scores]),
        psnr=_mean([s.psnr for s in scores]),
        seconds_per_image=seconds_per_image,
        seed=seed,
        num_steps=num_steps,
        num_seeds=num_seeds,
    )


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan


def image_grid(items: Sequence[ShapesPrompt], images: Sequence[Image.Image], columns: int = 8) -> Image.Image:
    """The first pictures of every kind in a row, edits as source and result, a green frame around the right
    ones.
    """
    kinds = list(dict.fromkeys(item.kind for item in items))
    label, step = 110, CANVAS + 6
    grid = Image.new("RGB", (label + columns * step, len(kinds) * step), "white")
    draw, shown = ImageDraw.Draw(grid), list[Image.Image]()
    for row, kind in enumerate(kinds):
        draw.text((4, row * step + step // 2 - 6), kind, fill="black")
        column = 0
        for item, image in zip(items, images, strict=True):
            source = item.reference
            if item.kind != kind or column + (1 if source is None else 2) > columns:
                continue
            frame = (0, 160, 0) if score(item, image).is_right else (210, 0, 0)
            for tile, color in ((source, (160, 160, 160)), (image, frame)):
                if tile is None:
                    continue
                x, y = label + column * step, row * step
                draw.rectangle((x, y, x + step - 1, y + step - 1), fill=color)
                grid.paste(tile, (x + 3, y + 3))
                shown.append(tile)
                column += 1
    attach_records_of(grid, shown)
    return grid


@dataclass(frozen=True, kw_only=True)
class ShapesBenchmark(Benchmark):
    """The same prompts under the contract of all benchmarks: 48 of each generation kind, or of each edit."""

    name = "shapes"
    variants = ("generation", "edit")
    settings = Settings(num_inference_steps=None, guidance_scale=None, height=CANVAS, width=CANVAS, seed=0)

    @property
    def is_edit(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """By the variant."""
        return self.variant == "edit"

    def read_items(self, data_dir: Path) -> tuple[list[Item], list[str]]:
        """No file is read."""
        chosen = [item for item in prompts(48) if (item.edit is not None) == self.is_edit]
        return [
            Item(
                id=f"{index:04d}",
                category=item.kind,
                prompt=item.text,
                references=() if item.edit is None else (partial(render, item.edit.source),),
                metadata={"shapes": item},
            )
            for index, item in enumerate(chosen)
        ], []

    def image_path(self, item: Item, sample: int) -> str:
        """images/0000-0.png."""
        return f"images/{item.id}-{sample}.png"

    def score(self, item: Item, images: Sequence[Image.Image], scorers: Scorers) -> ItemScore:
        """Exact, from pixels."""
        prompt = item.metadata["shapes"]
        verdicts = [score(prompt, image) for image in images]
        claim = hashlib.sha256(prompt.claim_key.encode()).hexdigest()[:16]
        facts = {"kind": item.category, "claim": claim}
        return ItemScore(
            item=item.id,
            category=item.category,
            value=float(np.mean([verdict.is_right for verdict in verdicts])),
            rows=tuple({**facts, "right": verdict.is_right} for verdict in verdicts),
            words=", ".join("right" if verdict.is_right else "wrong" for verdict in verdicts),
            num_expected=len(verdicts),
            num_scored=len(verdicts),
        )

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """Share of right pictures of each kind, and the mean of the kinds."""
        rows = [row for each in scores for row in each.rows]
        kinds = list(dict.fromkeys(row["kind"] for row in rows))
        table = {
            kind: float(np.mean([row["right"] for row in rows if row["kind"] == kind])) for kind in kinds
        }
        return {"overall": float(np.mean(list(table.values()))), **table}


benchmark = ShapesBenchmark


__getattr__ = renamed(
    __name__,
    {
        "picture_grid": "deepgen.evaluation.benchmarks.shapes.image_grid",
        "Shapes": "deepgen.evaluation.benchmarks.shapes.ShapesBenchmark",
    },
)
