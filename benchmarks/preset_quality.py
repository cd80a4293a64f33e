"""How far each preset, solver and cache ends from the solution of the ODE, against the passes it takes.

`shapes`, inside the package, draws the same prompts from the same noise with each candidate. The
solution is Heun's with 200 steps, which are 399 model calls. The error of a picture is the root mean square
difference of its clean latents from the solution's, as a share of the solution's own root mean square; a
candidate's is the mean over pictures. A pass is one branch (positive or negative) of one picture through all
blocks of the DiT; where a cache leaves out blocks, the share that ran is counted. These figures do not depend
on the machine's speed.

    python benchmarks/preset_quality.py --output benchmarks/results/preset_quality.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig
from torch import Tensor

from deepgen.pipeline import DeepGenPipeline
from deepgen.sampling.presets import NAMES
from deepgen.sampling.solvers import make_scheduler
from deepgen.shapes.prompts import prompt_rows

SEED = 100
# Without "exact", which is among the solvers, and "turbo", which draws with other weights (distillation.py).
MEASURED = ("balanced", "fast")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Prompts and how strongly they are followed."""

    name: str
    task: str
    guidance_scale: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to draw: arguments of the pipeline, a solver's name, a cache of the DiT."""

    name: str
    arguments: dict[str, Any]
    solver: str = "euler"
    cache: Any = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a candidate did on a case; passes and errors are of one picture."""

    case: str
    candidate: str
    passes: float
    error: float
    median: float
    worst: float


CASES = (
    Case(name="generate, guidance 1.75", task="generate", guidance_scale=1.75),
    Case(name="generate, guidance 4", task="generate", guidance_scale=4.0),
    Case(name="edit, guidance 1.25", task="edit", guidance_scale=1.25),
)
CANDIDATES = (
    Candidate(name="euler, 50 steps", arguments={"num_inference_steps": 50}),
    Candidate(name="euler, 24 steps", arguments={"num_inference_steps": 24}),
    *(Candidate(name=f"preset {name}", arguments={"preset": name}) for name in NAMES if name in MEASURED),
    *(
        Candidate(name=f"{solver}, {steps} steps", arguments={"num_inference_steps": steps}, solver=solver)
        for solver, steps in (("unipc", 16), ("dpm++", 16), ("heun", 8))
    ),
    *(
        Candidate(
            name=f"euler, 50 steps, first-block cache {threshold}",
            arguments={"num_inference_steps": 50},
            cache=FirstBlockCacheConfig(threshold=threshold),
        )
        for threshold in (0.03, 0.08)
    ),
    Candidate(
        name="euler, 50 steps, TaylorSeer every 3",
        arguments={"num_inference_steps": 50},
        cache=TaylorSeerCacheConfig(
            cache_interval=3,
            disable_cache_before_step=3,
            taylor_factors_dtype=torch.float32,
            use_lite_mode=True,
        ),
    ),
)


def measure(
    pipe: DeepGenPipeline,
    case: Case,
    candidates: Sequence[Candidate] = CANDIDATES,
    *,
    num_images: int = 8,
    reference_steps: int = 200,
    say: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Every candidate's distance from the solution on one case."""
    draw = _drawer(pipe, case, num_images)
    solution, _ = draw(
        Candidate(name="solution", arguments={"num_inference_steps": reference_steps}, solver="heun")
    )
    results = []
    for candidate in candidates:
        latents, passes = draw(candidate)
        errors = relative_error(latents, solution)
        result = Result(
            case=case.name,
            candidate=candidate.name,
            passes=round(passes, 2),
            error=round(errors.mean().item(), 4),
            median=round(errors.median().item(), 4),
            worst=round(errors.max().item(), 4),
        )
        say(f"{case.name:26} {candidate.name:40} passes {passes:6.1f}  error {result.error:.4f}")
        results.append(result)
    return results


def relative_error(latents: Tensor, solution: Tensor) -> Tensor:
    """Of each picture, (B,): r.m.s. of the difference over that of the solution; (B, C, h, w) both."""
    return (latents - solution).square().mean((1, 2, 3)).sqrt() / solution.square().mean((1, 2, 3)).sqrt()


def _drawer(
    pipe: DeepGenPipeline, case: Case, num_images: int
) -> Callable[[Candidate], tuple[Tensor, float]]:
    rows = prompt_rows(num_images, seed=5, task=case.task)  # pyright: ignore[reportArgumentType]
    references = [list(row.references) for row in rows] if case.task == "edit" else None
    own = pipe.scheduler

    def draw(candidate: Candidate) -> tuple[Tensor, float]:
        """Clean latents (B, C, h, w), and passes a picture."""
        pipe.scheduler = make_scheduler(candidate.solver, own)
        if candidate.cache is not None:
            pipe.transformer.enable_cache(candidate.cache)
        try:
            with _counted_blocks(pipe.transformer) as counted:
                output = pipe(
                    [row.prompt for row in rows],
                    image=references,
                    seed=SEED,
                    guidance_scale=case.guidance_scale,
                    output_type="latent",
                    **candidate.arguments,
                )
        finally:
            pipe.scheduler = own
            if candidate.cache is not None:
                pipe.transformer.disable_cache()
        return torch.as_tensor(output.images), counted[0] / num_images

    return draw


@contextmanager
def _counted_blocks(transformer: Any) -> Iterator[list[float]]:
    """Rows that went through blocks, as whole passes, in the list's one entry."""
    counted, blocks = [0.0], transformer.transformer_blocks

    def count(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counted[0] += len(inputs[0]) / len(blocks)

    # A block that a cache leaves out does not project its queries.
    handles = [block.attn.to_q.register_forward_hook(count) for block in blocks]
    try:
        yield counted
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, kw_only=True)
class PresetQuality:
    """Measure errors and passes of the presets on `shapes`."""

    output: Path | None = None
    """Where the figures go, as JSON."""
    images: int = 8
    """Of each case."""
    reference_steps: int = 200
    """Heun's steps of the solution."""


def main(options: PresetQuality) -> None:
    """Print a line for each candidate and case, and write the figures."""
    torch.set_num_threads(1)
    pipe = DeepGenPipeline.from_pretrained("shapes", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    results = [
        result
        for case in CASES
        for result in measure(
            pipe,
            case,
            num_images=options.images,
            reference_steps=options.reference_steps,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    ]
    if options.output is not None:
        table = {
            "model": "shapes",
            "solution": f"heun, {options.reference_steps} steps",
            "pictures": options.images,
            "results": [asdict(result) for result in results],
        }
        options.output.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(PresetQuality))
