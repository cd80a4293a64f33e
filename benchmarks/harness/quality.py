"""(f) Error and accuracy against model calls, for every solver and number of steps, on `shapes`.

The error of a picture is the distance to the 400-step Euler solution from the same noise, relative to its
norm. A picture whose path forks lands elsewhere and would hide all the others in a mean, so the median is
told, and the largest beside it. Accuracy is the share of pictures in which everything the prompt says can be
read back (`deepgen eval shapes`).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from deepgen.data.pixels import to_output
from deepgen.evaluation.benchmarks.shapes import ShapesPrompt, prompts, score
from deepgen.models.config import DEEPGEN_1_0
from deepgen.pipeline import DeepGenPipeline
from deepgen.sampling.presets import get_preset
from deepgen.sampling.solvers import NAMES, make_scheduler
from harness.machine import now
from harness.reference import decoded
from harness.store import Store

FINE_STEPS = 400
STEPS = (4, 6, 8, 10, 12, 16, 24, 50)
BATCH = 16


def run(store: Store, settings: dict[str, Any]) -> None:
    """A cell for every solver and number of steps; the cheapest of each that is as exact as Euler with 50."""
    pipe = DeepGenPipeline.from_pretrained("shapes", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    euler = pipe.scheduler
    items = [item for item in prompts(settings["per_kind"], seed=7) if item.edit is None]
    fine: list[Tensor] = []

    def solution() -> Tensor:
        if not fine:  # only where a cell is missing
            pipe.scheduler = euler
            fine.append(_draw(pipe, items, FINE_STEPS)[0])
        return fine[0]

    for name in NAMES:
        for steps in STEPS:

            def measure(name: str = name, steps: int = steps) -> dict[str, float]:
                target = solution()
                pipe.scheduler = make_scheduler(name, copy.deepcopy(euler))
                return _measure(pipe, items, steps, target)

            store.cell(f"{name} {steps}", measure)
    for name in preset_calls():

        def measure_preset(name: str = name) -> dict[str, float]:
            target, pipe.scheduler = solution(), euler
            pipe.scheduler = copy.deepcopy(euler)
            return _measure(pipe, items, None, target, preset=name)

        store.cell(f"preset {name}", measure_preset)
    store.content["preset_calls"] = preset_calls()
    store.content["as_exact_as_euler_50"] = as_exact_as_euler_50(store.cells)
    store.save()


def as_exact_as_euler_50(cells: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The fewest model calls with an error no larger than 50 Euler steps make."""
    least = cells["euler 50"]["error"]
    solvers = {name: cell for name, cell in cells.items() if not name.startswith("preset ")}
    enough = {name: cell for name, cell in solvers.items() if cell["error"] <= least}
    name = min(enough, key=lambda name: (enough[name]["calls"], enough[name]["error"]))
    return {"name": name, **enough[name], "error_of_euler_50": least}


def preset_calls() -> dict[str, tuple[int, int]]:
    """The pipeline's presets of fewer steps: calls for both branches, and for the positive one alone."""
    scheduler, calls = FlowMatchEulerDiscreteScheduler(**DEEPGEN_1_0.scheduler), {}
    for name in ("balanced", "fast"):
        preset = get_preset(name)
        _, timesteps = preset.prepare(scheduler, preset.num_steps, None, 1024)
        both = sum(preset.guided(timesteps))
        calls[name] = (both, len(timesteps) - both)
    return calls


def _measure(
    pipe: DeepGenPipeline, items: list[ShapesPrompt], steps: int | None, target: Tensor, **options: Any
) -> dict[str, float]:
    started = now("cpu")
    latents, calls = _draw(pipe, items, steps, **options)
    spent = now("cpu") - started
    with torch.no_grad():
        pixels = [picture for part in latents.split(BATCH) for picture in decoded(pipe, part)]
    right = [score(item, image).is_right for item, image in zip(items, to_output(pixels, "pil"), strict=True)]
    errors = (latents - target).flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)
    return {
        "error": float(errors.median()),
        "largest_error": float(errors.max()),
        "accuracy": sum(right) / len(right),
        "calls": calls,
        "seconds": spent,
    }


@torch.no_grad()
def _draw(
    pipe: DeepGenPipeline, items: list[ShapesPrompt], steps: int | None, **options: Any
) -> tuple[Tensor, int]:
    """Latents of every item, and how often the DiT ran for each."""
    calls = [0]
    hook = pipe.transformer.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    latents, batches = [], range(0, len(items), BATCH)
    for first in batches:
        batch = items[first : first + BATCH]
        latents += pipe(
            [item.text for item in batch],
            seed=[first + k for k in range(len(batch))],
            num_inference_steps=steps,
            output_type="latent",
            **options,
        ).images
    hook.remove()
    return torch.stack(latents), calls[0] // len(batches)
