"""What steps share: exact caches change no bit, joined ones no sample, and the server uses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from deepgen.pipeline import DeepGenPipeline
from deepgen.sampling import ode, step_cache
from deepgen.sampling.guidance import Guidance
from deepgen.sampling.guided_inputs import GuidedInputs
from deepgen.sampling.step_cache import StepCache
from deepgen.sampling.velocity import GuidedVelocity, branch_velocities
from deepgen.serving.jobs import GenerationRequest
from deepgen.serving.sampler import Sampler
from deepgen.types import Condition

TIMESTEPS = torch.tensor([1000.0, 700.0, 300.0, 30.0])
CLOSE = 2e-5  # float32, other shapes of the same products


def make_inputs(
    pipe: DeepGenPipeline, seed: int, tokens: int = 5, branches: int = 2, references: int = 0, **cache: Any
) -> GuidedInputs:
    """Of one sample; with `is_exact` or `max_bytes`, with a cache."""
    config, random = pipe.transformer.config, torch.Generator().manual_seed(seed)
    condition = Condition(
        torch.randn(branches, tokens, config.joint_attention_dim, generator=random),
        torch.randn(branches, config.pooled_projection_dim, generator=random),
    )
    shown = [torch.randn(config.in_channels, 4, 8, generator=random) for _ in range(references)]
    make_cache = (lambda: StepCache(TIMESTEPS, **cache)) if cache else None
    return GuidedInputs(condition, [shown] if references else None, branches, make_cache)


def latents(pipe: DeepGenPipeline, seed: int) -> Tensor:
    shape = (1, pipe.transformer.config.in_channels, 8, 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_state(pipe: DeepGenPipeline, seed: int, step: int = 0, **options: Any) -> ode.SamplingState:
    return ode.SamplingState(
        latents=latents(pipe, seed),
        timesteps=TIMESTEPS,
        solver=Line(),
        inputs=make_inputs(pipe, seed, is_exact=False, **options),
        guidance=Guidance(3.0 if options.get("branches", 2) == 2 else 1.0),
        has_both=[True, True, False, False],
        step=step,
    )


class Line:
    """Euler without a schedule of its own."""

    sigmas = [*(TIMESTEPS / 1000).tolist(), 0.0]
    timesteps = range(len(TIMESTEPS))

    def step(self, velocity: Tensor, step: int, sample: Tensor, return_dict: bool) -> tuple[Tensor]:
        return (sample + (self.sigmas[step + 1] - self.sigmas[step]) * velocity,)


@pytest.mark.parametrize("references", [0, 1])
@torch.no_grad()
def test_an_exact_cache_changes_no_bit_of_a_velocity(pipe: DeepGenPipeline, references: int) -> None:
    plain = make_inputs(pipe, 0, references=references)
    kept = make_inputs(pipe, 0, references=references, is_exact=True)
    for step, timestep in enumerate(TIMESTEPS):
        given = latents(pipe, step), timestep.expand(1)
        expected = branch_velocities(pipe.transformer, plain, *given)
        assert torch.equal(branch_velocities(pipe.transformer, kept, *given, steps=[step]), expected)


@torch.no_grad()
def test_an_exact_table_that_rounds_otherwise_is_made_step_by_step(
    pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = step_cache._table, []

    def another_kernel(transformer: Any, steps: Tensor, pooled: Tensor) -> list[tuple[Tensor, Tensor]]:
        sizes.append(len(steps))
        off = 1e-6 if len(steps) > 1 else 0.0  # as if many rows took another kernel
        return [(image + off, context + off) for image, context in real(transformer, steps, pooled)]

    monkeypatch.setattr(step_cache, "_table", another_kernel)
    step_cache._rounds_alike.clear()
    pooled = torch.randn(2, pipe.transformer.config.pooled_projection_dim)
    for _ in range(2):  # also when it is known already
        cache = StepCache(TIMESTEPS, is_exact=True).at([1])
        vectors = cache.modulations(pipe.transformer, pooled)
        assert vectors is not None
        alone = real(pipe.transformer, TIMESTEPS[1:2], pooled)
        assert all(
            torch.equal(a, b) for x, y in zip(vectors, alone, strict=True) for a, b in zip(x, y, strict=True)
        )
    assert sizes == [3, 1, 1, 1] * 2
    step_cache._rounds_alike.clear()


@torch.no_grad()
def test_a_shape_that_rounds_alike_is_compared_once(
    pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = step_cache._table, []

    def rows_apart(transformer: Any, steps: Tensor, pooled: Tensor) -> list[tuple[Tensor, Tensor]]:
        sizes.append(len(steps))
        single = [real(transformer, steps[n : n + 1], pooled) for n in range(len(steps))]
        joined = [
            [torch.cat(parts) for parts in zip(*block, strict=True)] for block in zip(*single, strict=True)
        ]
        return [(image, context) for image, context in joined]

    monkeypatch.setattr(step_cache, "_table", rows_apart)
    step_cache._rounds_alike.clear()
    pooled = torch.randn(4, pipe.transformer.config.pooled_projection_dim)
    for _ in range(3):
        StepCache(TIMESTEPS, is_exact=True).modulations(pipe.transformer, pooled)
    assert sizes == [4, 1, 1, 1, 1, 4, 4]
    step_cache._rounds_alike.clear()


@torch.no_grad()
def test_runs_at_other_noise_levels_share_a_call_and_each_moves_as_alone(pipe: DeepGenPipeline) -> None:
    velocity, places = GuidedVelocity(pipe.transformer), [(1, 0, 5), (2, 1, 9), (3, 0, 7)]
    together = [make_state(pipe, seed, step, tokens=tokens) for seed, step, tokens in places]
    alone = [make_state(pipe, seed, step, tokens=tokens) for seed, step, tokens in places]
    ode.step(together, velocity)
    for state in alone:
        ode.step([state], velocity)
    for one, other in zip(together, alone, strict=True):
        assert one.step == other.step
        torch.testing.assert_close(one.latents, other.latents, atol=CLOSE, rtol=0)


@torch.no_grad()
def test_runs_that_skip_the_negative_branch_share_a_call_with_unguided_ones(pipe: DeepGenPipeline) -> None:
    velocity = GuidedVelocity(pipe.transformer)

    def states() -> list[ode.SamplingState]:
        skipping, unguided = make_state(pipe, 1), make_state(pipe, 2, branches=1)
        for _ in range(2):
            ode.step([skipping], velocity)
        return [unguided, skipping]

    together, alone = states(), states()
    assert [state.runs_both for state in together] == [False, False]
    assert [state.skip_uncond for state in together] == [False, True]
    ode.step(together, velocity)
    for one, other in zip(together, alone, strict=True):
        ode.step([other], velocity)
        torch.testing.assert_close(one.latents, other.latents, atol=CLOSE, rtol=0)
    with pytest.raises(ValueError, match="with and without a negative branch cannot share"):
        ode.step([make_state(pipe, 1), make_state(pipe, 2, branches=1)], velocity)


def test_a_copied_state_moves_and_the_first_stays(pipe: DeepGenPipeline) -> None:
    state = make_state(pipe, 1)
    twin, before = state.copy(), state.latents.clone()
    twin.move(torch.ones_like(state.latents))
    assert (state.step, twin.step) == (0, 1)
    assert torch.equal(state.latents, before)
    assert not torch.equal(twin.latents, before)


def modulation_calls(pipe: DeepGenPipeline) -> list[int]:
    """Rows of every product with the first block's modulation from now on."""
    rows: list[int] = []
    linear = pipe.transformer.transformer_blocks[0].norm1.linear
    linear.register_forward_hook(lambda module, given, result: rows.append(len(given[0])))
    return rows


def served(pipe: DeepGenPipeline, seeds: Sequence[int], **options: Any) -> Sampler:
    sampler = Sampler(pipe, **options)
    plans = [sampler.plan(GenerationRequest(prompt="a red circle", num_inference_steps=4)) for _ in seeds]
    samples = [
        sampler.begin(plan, sampler.encode(plan), seed) for plan, seed in zip(plans, seeds, strict=True)
    ]
    for _ in range(4):
        sampler.step(samples)
    return sampler


def test_a_served_image_reads_the_modulation_once(fresh_pipe: DeepGenPipeline) -> None:
    rows = modulation_calls(fresh_pipe)
    sampler = served(fresh_pipe, [1])
    assert rows == [8]  # four steps of two branches
    served(fresh_pipe, [1, 2, 3])
    assert rows == [8] * 4  # in company each has its own
    assert sampler._velocity._joined is None, "what was drawn is let go"


def test_running_images_divide_the_memory_of_what_steps_share(
    fresh_pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = fresh_pipe.transformer.transformer_blocks
    width = sum(block.norm1.linear.out_features + block.norm1_context.linear.out_features for block in blocks)
    step = 2 * width * 4  # bytes of two float32 rows
    monkeypatch.setattr("deepgen.serving.sampler.CACHE_BYTES", 3 * 2 * step)
    rows = modulation_calls(fresh_pipe)
    served(fresh_pipe, [1], max_running=3)
    assert rows == [4, 4]  # two steps at a time
