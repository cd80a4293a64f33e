"""Plan of a distillation before it starts: memory, arithmetic, hours.

By regression a round reads each prompt once, the teacher follows each path with both branches of guidance and
one call more for each of the student's steps, and the student is trained on every step. By distribution
matching the student is trained through all of its steps at once, teacher and fake score look at the picture
once, and the fake score learns from it. No picture is encoded or decoded but the references of edits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from deepgen.distillation.config import DistillSettings
from deepgen.generation import GenerationSettings
from deepgen.models.config import Architecture
from deepgen.planning.accelerators import Accelerator
from deepgen.planning.flops import SampleShape, dit, positions, sample_flops
from deepgen.training.plan import Counts, Task, TrainingPlan, plan, plan_of_recipe


@dataclass(frozen=True)
class DistillPlan:
    """What a run needs. Arithmetic is in FLOP.

    Attributes:
        memory: the fullest moment on every process, its rows, and what to do where it does not fit.
        passes: of one sample and branch through the DiT, by task and purpose, in one round of all processes.
        flops: of one round of all processes, by task and purpose.
        num_rounds: of the whole run.
        num_processes: that share the paths.
    """

    memory: TrainingPlan
    passes: dict[Task, dict[str, float]]
    flops: dict[Task, dict[str, float]]
    num_rounds: float
    num_processes: int

    def hours(self, task: Task) -> float:
        """Of the whole run where every prompt is of that task, at the card's assumed utilisation."""
        accelerator = self.memory.accelerator
        reached = self.num_processes * accelerator.tflops * 1e12 * accelerator.mfu
        return self.num_rounds * sum(self.flops[task].values()) / reached / 3600

    def __str__(self) -> str:
        tasks = list(self.flops)
        lines = [*self.memory.memory_lines(), ""]
        lines.append(f"{'TFLOP of one round':28}" + "".join(f"{task:>12}" for task in tasks))
        for purpose in self.flops[tasks[0]]:
            numbers = [self.flops[task][purpose] / 1e12 for task in tasks]
            lines.append(f"  {purpose:26}" + "".join(f"{number:>12,.1f}" for number in numbers))
        for task in tasks:
            shown = ", ".join(f"{count:,.0f} {purpose}" for purpose, count in self.passes[task].items())
            lines.append(f"  passes through the DiT, {task}: {shown}")
        hours = {task: self.hours(task) for task in tasks}
        work = f"{self.num_rounds:,.0f} rounds"
        lines += ["", *self.memory.lines_of_tasks(work, hours, self.num_processes)]
        return "\n".join(lines)


def plan_distill(
    recipe: DistillSettings,
    architecture: Architecture,
    accelerator: Accelerator,
    num_processes: int = 1,
    price_per_hour: float | None = None,
) -> DistillPlan:
    """Count what a recipe of distillation needs on such cards. Takes a few seconds.

    Args:
        recipe: the recipe; its prompts are not opened.
        architecture: of the model it starts from.
        accelerator: one for every process.
        num_processes: which share the paths; each holds the whole model.
        price_per_hour: of one card, in any currency.
    """
    areas = [height * width for height, width in recipe.drawn_sizes]
    side = round(max(areas) ** 0.5 / 32) * 32 if areas else architecture.defaults["height"]
    config = plan_of_recipe(
        recipe,
        architecture,
        accelerator,
        image_size=side,
        edit_share=0.5,  # both kinds of prompts are shown
        global_batch_size=max(2, round(recipe.paths_per_round * _steps(recipe) / recipe.updates_per_pass)),
        num_processes=num_processes,
        has_cached_latents=False,
    )
    counts = Counts()
    models = counts.models_of(config)
    memory = plan(config, accelerator, recipe.num_steps, price_per_hour, counts)
    if recipe.trains_transformer:
        stored = getattr(torch, config.frozen_dtype or config.compute_dtype)
        teacher = sum(one.numel() for one in models["transformer"].parameters()) * stored.itemsize
        rows = memory.weights | {"the teacher": float(teacher)}
        memory = replace(memory, weights=rows, peak=memory.peak + teacher)
    if recipe.objective == "distribution-matching":
        memory = _with_matching(memory, recipe)
    passes = {task: _passes(recipe, architecture, task) for task in config.samples}
    return DistillPlan(
        memory=memory,
        passes=passes,
        flops={task: _flops(recipe, models, sample, passes[task]) for task, sample in config.samples.items()},
        num_rounds=recipe.num_steps / recipe.updates_per_round,
        num_processes=num_processes,
    )


def _shares(recipe: DistillSettings) -> dict[int, float]:
    """How often the student has each number of steps."""
    first, *others = recipe.num_inference_steps
    share = recipe.first_share if others else 1.0
    return {first: share, **{count: (1 - share) / len(others) for count in others}}


def _steps(recipe: DistillSettings) -> float:
    """Of a path of the student, on average."""
    return sum(count * share for count, share in _shares(recipe).items())


def _with_matching(memory: TrainingPlan, recipe: DistillSettings) -> TrainingPlan:
    """What the fake score adds, which is trained as the student is, and the activations of all steps."""
    kept_of_each = 4 + 4 + 8 + (4 if recipe.ema_decay is not None else 0)  # weight, gradient, moments, mean
    fake = memory.trained["transformer"] * kept_of_each
    more = max(recipe.num_inference_steps) - 1
    kept = {
        task: {**parts, "transformer, other steps": more * parts["transformer"]}
        for task, parts in memory.activations.items()
    }
    steps = max(more * parts["transformer"] for parts in memory.activations.values())
    rows = memory.weights | {"the fake score": float(fake)}
    return replace(memory, weights=rows, activations=kept, peak=memory.peak + fake + steps)


_WORK = {
    "by the teacher": "the teacher",
    "to draw": "the student's own states",
    "by the fake score": "the fake score",
    "to train": "train",
}


def _passes(recipe: DistillSettings, architecture: Architecture, task: Task) -> dict[str, float]:
    """Of one sample and branch through the DiT, by purpose."""
    asked = GenerationSettings(guidance_scale=recipe.guidance_scale)
    branches = 2 if asked.resolve(architecture.defaults, task == "edit").is_guided else 1
    paths = recipe.paths_per_round
    if recipe.objective == "distribution-matching":
        trained = _steps(recipe) + recipe.matching.fake_updates
        return {"by the teacher": paths * branches, "by the fake score": paths, "to train": paths * trained}
    calls = sum(
        share * count * (max(1, round(recipe.teacher_steps / count)) + 1)
        for count, share in _shares(recipe).items()
    )
    return {
        "by the teacher": paths * calls * branches,
        "to draw": paths * (_steps(recipe) - 1) if recipe.own_share else 0.0,
        "to train": paths * _steps(recipe) * recipe.passes_per_round,
    }


def _flops(
    recipe: DistillSettings, models: dict, sample: SampleShape, passes: dict[str, float]
) -> dict[str, float]:
    """By purpose, of all processes."""
    work = sample_flops(models, sample, is_checkpointing=recipe.is_checkpointing_activations)
    forward = dit(models["transformer"], positions(models, sample), False).forward
    parts = ("vae", "vision", "vlm", "connector") if sample.references else ("vlm", "connector")
    read = recipe.paths_per_round * 2 * sum(work[part].forward for part in parts)
    costs = {"to train": work["transformer"].training}
    found = {_WORK[purpose]: count * costs.get(purpose, forward) for purpose, count in passes.items()}
    return {"read the prompts": read, **found}
