"""A distilled model beside its teacher: accuracy against passes through the DiT, distance and variety.

    python benchmarks/distillation.py --record benchmarks/results/distillation.json

Teacher and student draw the held-out prompts of the shapes benchmark, with the same noise, in each way: the
teacher with each preset in fewer and fewer steps, the student in 8, 4, 2 and 1. A pass is one branch of one
picture through all blocks. Accuracy is the mean over seeds of the evaluation, which choose prompts and noise;
± is half of a 95 % interval over these seeds (Student's t).

Distance is the root mean square difference of clean latents from the solution of the teacher ODE from the
same noise (Heun, 100 steps), as a share of the solution's own root mean square. Variety is the root mean
square difference between pictures of one prompt from different noise, as a share of the teacher's at 50
steps.

What was measured is kept in the record and not measured again.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from PIL import Image, ImageDraw
from torch import Tensor

from deepgen.data.png import save_png
from deepgen.evaluation.benchmarks.shapes import evaluate
from deepgen.pipeline import DeepGenPipeline
from deepgen.shapes.prompts import prompt_rows

T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # of Student's distribution, by the number of seeds
REFERENCE = "exact 24"  # 48 passes
SEED = 100


@dataclass(frozen=True)
class Way:
    """One way to draw."""

    preset: str
    num_steps: int

    def __str__(self) -> str:
        return f"{self.preset} {self.num_steps}"

    @property
    def arguments(self) -> dict[str, Any]:
        """Of the pipeline."""
        return {"preset": self.preset, "num_inference_steps": self.num_steps}


EXACT = [Way("exact", steps) for steps in (50, 24, 12, 8, 4)]
OTHERS = [Way("balanced", 17), Way("balanced", 8), Way("fast", 12), Way("fast", 8), Way("fast", 4)]
STUDENT = [Way("turbo", steps) for steps in (8, 4, 2, 1)]


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Measure what is missing, and write table and figures."""

    record: Path = Path("distillation.json")
    """What was measured; gets what is missing."""
    figures: Path = Path("docs/distillation")
    """Curves go to FIGURES.png, pictures to FIGURES_pictures.png."""
    model: str = "shapes"
    lora: Path | None = None
    """Of the student; default the model's own."""
    seeds: tuple[int, ...] = (0, 1, 2)
    limit: int = 16
    """Items of each kind of caption, and half as many of each kind of edit."""
    parts: tuple[str, ...] = ("teacher", "student", "distance", "pictures")
    """What is measured now."""
    only: tuple[str, ...] = ()
    """Of teacher and student these ways alone, such as "exact 24"; with more items than the others had."""

    def run(self) -> None:
        """Measure and write."""
        torch.set_num_threads(1)
        file = self.record
        found = json.loads(file.read_text()) if file.is_file() else {"accuracy": {}}
        teacher, student = self._pipe(is_student=False), self._pipe(is_student=True)
        pairs = [(teacher, way) for way in (*EXACT, *OTHERS) if "teacher" in self.parts]
        pairs += [(student, way) for way in STUDENT if "student" in self.parts]
        pairs = [(pipe, way) for pipe, way in pairs if not self.only or str(way) in self.only]
        for pipe, way in pairs:
            for seed in self.seeds:
                kept = found["accuracy"].setdefault(str(way), {})
                if kept.setdefault(f"{seed}", {}).get("limit") != self.limit:
                    kept[f"{seed}"] = {"limit": self.limit, **self._measured(pipe, way, seed)}
                    file.write_text(json.dumps(found, indent=1) + "\n")
        ways = [(teacher, way) for way in (*EXACT, *OTHERS)] + [(student, way) for way in STUDENT]
        if "distance" in self.parts:
            found["distance"], found["variety"] = distances(teacher, ways), variety(ways)
        found["summary"] = summary(found["accuracy"])
        file.write_text(json.dumps(found, indent=1) + "\n")
        print(table(found))
        if "pictures" in self.parts:
            save_png(picture_rows(ways), self.figures.with_name(f"{self.figures.name}_pictures.png"))
            curves(found, self.figures.with_suffix(".png"))

    def _pipe(self, is_student: bool) -> DeepGenPipeline:
        pipe = DeepGenPipeline.from_pretrained(self.model)
        if is_student and self.lora is not None:
            pipe.load_lora_weights(self.lora)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _measured(self, pipe: DeepGenPipeline, way: Way, seed: int) -> dict[str, Any]:
        counter = PassCounter(pipe)
        report = evaluate(
            counter,
            limit_per_kind=self.limit,
            seed=seed,
            batch_size=24,
            num_steps=way.num_steps,
            preset=way.preset,
        )
        print(way, seed, f"{report.generation_accuracy:.3f} {report.edit_accuracy:.3f}", flush=True)
        kinds = {kind.kind: kind.accuracy for kind in report.kinds}
        return {"passes": counter.num_passes / counter.num_pictures, "kinds": kinds}


class PassCounter:
    """A pipeline that counts rows through its DiT."""

    def __init__(self, pipe: DeepGenPipeline) -> None:
        self.pipe, self.num_passes, self.num_pictures = pipe, 0, 0

    def __call__(self, prompts: Sequence[str], **arguments: Any) -> Any:
        """A call of the pipeline."""
        hook = self.pipe.transformer.register_forward_pre_hook(self._count, with_kwargs=True)
        try:
            drawn = self.pipe(prompts, **arguments)
        finally:
            hook.remove()
        self.num_pictures += len(drawn.images)
        return drawn

    def _count(self, _module: Any, _args: Any, given: dict[str, Any]) -> None:
        self.num_passes += len(given["hidden_states"])


def summary(accuracy: dict[str, Any]) -> dict[str, Any]:
    """Of each way: passes, and of the mean over abilities and of each ability (mean, half interval)."""
    result = {}
    for way, by_seed in accuracy.items():
        rows = list(by_seed.values())
        means = [statistics.fmean(row["kinds"].values()) for row in rows]
        kinds = {kind: interval([row["kinds"][kind] for row in rows]) for kind in rows[0]["kinds"]}
        passes = statistics.fmean(row["passes"] for row in rows)
        result[way] = {
            "passes": passes,
            "items": rows[0]["limit"],
            "mean": interval(means),
            "kinds": kinds,
        }
    return result


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of the 95 % interval; 0 where there is one value."""
    if len(values) < 2:
        return values[0], 0.0
    half = T95[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), half


def table(found: dict[str, Any]) -> str:
    """Markdown, with the share of the reference's accuracy and the weakest ability's."""
    rows = found["summary"]
    reference = rows.get(REFERENCE)
    lines = [
        "| way | passes | accuracy | of the teacher's | weakest ability | distance | variety |",
        "|---|---|---|---|---|---|---|",
    ]
    for way, row in rows.items():
        mean, half = row["mean"]
        share = weakest = "-"
        if reference is not None:
            share = f"{mean / reference['mean'][0]:.3f}"
            shares = {k: v[0] / reference["kinds"][k][0] for k, v in row["kinds"].items()}
            least = min(shares, key=lambda kind: shares[kind])
            weakest = f"{least} {shares[least]:.2f}"
        far, varied = found.get("distance", {}).get(way), found.get("variety", {}).get(way)
        more = ["-" if value is None else f"{value:.3f}" for value in (far, varied)]
        lines.append(
            f"| {way} | {row['passes']:.0f} | {mean:.3f} ± {half:.3f} | {share} | {weakest} | "
            f"{more[0]} | {more[1]} |"
        )
    return "\n".join(lines)


def kinds_table(found: dict[str, Any]) -> str:
    """Markdown: accuracy of each ability by each way, and its share of the reference's."""
    rows = found["summary"]
    reference, others = rows[REFERENCE], [way for way in rows if way != REFERENCE]
    head = "".join(f" {way} | share |" for way in others)
    lines = [f"| ability | {REFERENCE} |{head}", "|---|---|" + "---|---|" * len(others)]
    for kind in ("mean", *reference["kinds"]):
        values = {way: {"mean": row["mean"], **row["kinds"]}[kind][0] for way, row in rows.items()}
        cells = "".join(f" {values[way]:.3f} | {values[way] / values[REFERENCE]:.2f} |" for way in others)
        lines.append(f"| {kind} | {values[REFERENCE]:.3f} |{cells}")
    return "\n".join(lines)


# --- distance and variety -----------------------------------------------------------------------------------


def latents_of(
    pipe: DeepGenPipeline, texts: list[str], images: Any, seeds: list[int], **options: Any
) -> Tensor:
    """Clean latents, float32 (B, C, h, w)."""
    drawn = pipe(texts, image=images, seed=seeds, output_type="latent", **options).images
    return torch.stack(list(drawn)).float()


def cases(num_each: int) -> list[tuple[list[str], Any]]:
    """Captions, and edits with their references."""
    generate = prompt_rows(num_each, seed=SEED, task="generate")
    edits = prompt_rows(num_each, seed=SEED, task="edit")
    return [
        ([row.prompt for row in generate], None),
        ([row.prompt for row in edits], [list(row.references) for row in edits]),
    ]


def distances(teacher: DeepGenPipeline, ways: Sequence[tuple[DeepGenPipeline, Way]]) -> dict[str, float]:
    """Of every way, over 16 captions and 16 edits."""
    values: dict[str, list[float]] = {}
    for texts, images in cases(16):
        seeds = list(range(len(texts)))
        goal = latents_of(teacher, texts, images, seeds, solver="heun", num_inference_steps=100)
        size = goal.square().flatten(1).mean(1).sqrt()
        for pipe, way in ways:
            drawn = latents_of(pipe, texts, images, seeds, **way.arguments)
            error = (drawn - goal).square().flatten(1).mean(1).sqrt()
            values.setdefault(str(way), []).extend((error / size).tolist())
    return {way: statistics.fmean(own) for way, own in values.items()}


def variety(
    ways: Sequence[tuple[DeepGenPipeline, Way]], num_prompts: int = 8, num_each: int = 6
) -> dict[str, float]:
    """Of every way, as a share of the first one's."""
    spreads: dict[str, float] = {}
    texts = [row.prompt for row in prompt_rows(num_prompts, seed=SEED + 1, task="generate")]
    for pipe, way in ways:
        drawn = latents_of(
            pipe,
            [text for text in texts for _ in range(num_each)],
            None,
            list(range(num_prompts * num_each)),
            **way.arguments,
        )
        groups = drawn.flatten(1).view(num_prompts, num_each, -1)
        between = torch.cdist(groups, groups) / groups.shape[-1] ** 0.5  # (prompts, each, each)
        spreads[str(way)] = float(between.sum() / (num_prompts * num_each * (num_each - 1)))
    first = next(iter(spreads.values()))
    return {way: value / first for way, value in spreads.items()}


# --- figures ------------------------------------------------------------------------------------------------

SHOWN = ("exact 50", "exact 24", "fast 12", "exact 4", "turbo 8", "turbo 4", "turbo 2", "turbo 1")


def picture_rows(ways: Sequence[tuple[DeepGenPipeline, Way]], columns: int = 5) -> Image.Image:
    """A row of pictures for each of some ways; captions, then edits, from the same noise in each row."""
    wanted, side, label = [one for one in ways if str(one[1]) in SHOWN], 96, 70
    sheet = Image.new("RGB", (label + 2 * columns * (side + 4), len(wanted) * (side + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (pipe, way) in enumerate(wanted):
        draw.text((4, row * (side + 4) + side // 2 - 6), str(way), fill="black")
        place = 0
        for texts, images in cases(columns):
            drawn = pipe(texts, image=images, seed=list(range(columns)), **way.arguments).images
            for image in drawn:
                sheet.paste(image, (label + place * (side + 4), row * (side + 4)))
                place += 1
    return sheet


def curves(found: dict[str, Any], path: Path) -> None:
    """Accuracy against passes: of all abilities together, and of each."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = found["summary"]
    kinds = ["mean", *next(iter(rows.values()))["kinds"]]
    figure, axes = pyplot.subplots(4, 4, figsize=(13, 10), sharex=True, sharey=True)
    for axis, kind in zip(axes.flat, kinds, strict=True):
        for preset in ("exact", "balanced", "fast", "turbo"):
            own = sorted(
                (row for way, row in rows.items() if way.startswith(preset)), key=lambda r: r["passes"]
            )
            values = [row["mean"] if kind == "mean" else row["kinds"][kind] for row in own]
            axis.errorbar(
                [row["passes"] for row in own],
                [v[0] for v in values],
                [v[1] for v in values],
                marker="o",
                markersize=3,
                capsize=2,
                label="student" if preset == "turbo" else f"teacher, {preset}",
            )
        axis.set_xscale("log", base=2)
        axis.set_ylim(0, 1.05)
        axis.set_title("all abilities" if kind == "mean" else kind, fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("passes")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    tyro.cli(Distillation).run()
