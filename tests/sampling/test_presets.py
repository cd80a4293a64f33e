"""Presets: fewer passes to the same end, on an ODE with a known answer and on the small model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from torch import Tensor

from deepgen.pipeline import DeepGenPipeline
from deepgen.sampling.guidance import Guidance, guide
from deepgen.sampling.presets import PRESETS, get_preset, spaced

FIGURES = Path(__file__).parents[2] / "benchmarks" / "results" / "preset_quality.json"
SPREAD = 0.2  # of the data


def velocity(noisy: Tensor, sigma: float) -> Tensor:
    """Of data N(0, SPREAD^2), where a path scales with the deviation of what is noisy."""
    variance = ((1 - sigma) * SPREAD) ** 2 + sigma**2
    return noisy * (sigma - (1 - sigma) * SPREAD**2) / variance


def end_of_path(name: str, num_steps: int, noise: Tensor) -> Tensor:
    preset = get_preset(name)
    euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler, timesteps = preset.prepare(euler, num_steps, "cpu", num_tokens=1)
    latents = noise
    for step, timestep in enumerate(timesteps.tolist()):
        flow = velocity(latents, timestep / 1000)
        latents = scheduler.step(flow, scheduler.timesteps[step], latents, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("name", ["balanced", "fast"])
def test_a_preset_ends_nearer_to_the_known_answer_than_fifty_steps_of_euler(name: str) -> None:
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    answer = SPREAD * noise
    steps = PRESETS[name].num_steps
    assert steps is not None
    assert 3 * steps <= 52
    error = (end_of_path(name, steps, noise) - answer).abs().max()
    assert 0 < error < (end_of_path("exact", 50, noise) - answer).abs().max()


def test_spacing_runs_from_noise_to_the_last_level_ever_closer() -> None:
    levels = torch.tensor(spaced(17, 1.6, 0.01))
    assert levels[[0, -1]].tolist() == pytest.approx([1.0, 0.01])
    assert (levels.diff() < 0).all()
    assert (levels.diff().diff() > 0).all()
    assert spaced(1, 1.6, 0.01).tolist() == [1.0]


def test_a_difference_that_does_not_change_may_be_kept() -> None:
    guidance = Guidance(4.0)
    negative, positive = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    both = torch.cat([negative, positive])
    assert torch.equal(guidance(both), guide(both, 4.0))
    torch.testing.assert_close(guidance.extend(positive + 1), guide(both + 1, 4.0))


def test_the_negative_branch_cannot_rest_first() -> None:
    with pytest.raises(ValueError, match="cannot be skipped at the first step"):
        Guidance(4.0).extend(torch.zeros(1))


def test_an_unknown_preset_is_refused_with_the_known_ones(pipe: DeepGenPipeline) -> None:
    with pytest.raises(ValueError, match="unknown preset 'quick'; known: exact, balanced, fast"):
        pipe("a cat", preset="quick")


def test_a_preset_does_not_replace_a_solver_that_was_chosen(pipe: DeepGenPipeline) -> None:
    pipe.scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
    with pytest.raises(ValueError, match="chooses the solver, and the pipeline has FlowMatchHeun"):
        pipe("a cat", preset="fast")


def test_exact_is_what_is_drawn_without_a_preset(pipe: DeepGenPipeline) -> None:
    images = [
        pipe("a cat", seed=1, output_type="latent", **kind).images for kind in ({}, {"preset": "exact"})
    ]
    assert torch.equal(*images)


@pytest.mark.parametrize("preset", ["balanced", "fast"])
@pytest.mark.parametrize("is_edit", [False, True])
def test_a_picture_of_a_preset_does_not_depend_on_its_batch(
    pipe: DeepGenPipeline, image: Any, preset: str, is_edit: bool
) -> None:
    prompts = ["a cat", "a long prompt about two cats beside a dog"]
    given = image if is_edit else None
    options = {"output_type": "latent", "preset": preset, "num_inference_steps": 5}
    together = pipe(prompts, image=given, seed=5, **options).images
    for index, prompt in enumerate(prompts):
        alone = pipe(prompt, image=given, seed=5 + index, **options).images
        assert (together[index] - alone[0]).abs().max() < 1e-4


def test_a_preset_runs_the_negative_branch_only_where_it_says(pipe: DeepGenPipeline) -> None:
    rows = []
    pipe.transformer.register_forward_hook(
        lambda module, inputs, kwargs, output: rows.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    pipe("a cat", seed=1, preset="fast", num_inference_steps=12, output_type="latent")
    assert len(rows) == 12
    assert set(rows) == {1, 2}
    assert rows == sorted(rows, reverse=True), "both branches first, the positive one alone at the end"


def figures() -> dict[tuple[str, str], dict]:
    return {(row["case"], row["candidate"]): row for row in json.loads(FIGURES.read_text())["results"]}


def test_the_recorded_figures_hold_balanced_to_fifty_steps_of_euler() -> None:
    recorded = figures()
    cases = {case for case, _ in recorded}
    assert len(cases) == 3
    for case in cases:
        euler, balanced = recorded[case, "euler, 50 steps"], recorded[case, "preset balanced"]
        assert balanced["error"] <= euler["error"], case
        assert 3 * balanced["passes"] <= euler["passes"], case


@pytest.mark.slow
@pytest.mark.parametrize("name", ["balanced", "fast"])
def test_a_preset_draws_what_the_record_says(name: str) -> None:
    pipe = DeepGenPipeline.from_pretrained("shapes", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    prompts = ["a red circle on a white background", "two blue stars"]
    options = {"seed": 1, "output_type": "latent"}
    drawn = pipe(prompts, preset=name, **options).images
    pipe.scheduler = FlowMatchHeunDiscreteScheduler(shift=pipe.scheduler.config.shift)
    solution = pipe(prompts, num_inference_steps=100, **options).images
    error = (drawn - solution).square().mean().sqrt() / solution.square().mean().sqrt()
    worst = max(row["worst"] for (_, candidate), row in figures().items() if candidate == f"preset {name}")
    assert 0 < error <= worst
