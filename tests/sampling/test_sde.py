"""The stochastic samplers: closed forms, the ODE inside them, and log-probs that can be reproduced."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deepgen.sampling.sde import NAMES, transition

SIGMAS = torch.tensor([1.0, 0.9, 0.6, 0.2, 0.0])
MAX = 0.9


def batch(seed: int = 0, size: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Velocity, noisy and noise, (B, 2, 8, 8)."""
    generator = torch.Generator().manual_seed(seed)
    velocity, noisy, noise = torch.randn(3, size, 2, 8, 8, generator=generator)
    return velocity, noisy, noise


def per_sample(sigma: Tensor) -> Tensor:
    return sigma.view(-1, 1, 1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_without_noise_every_sampler_is_exactly_the_euler_step(name: str) -> None:
    velocity, noisy, noise = batch()
    sigma, sigma_next = SIGMAS[:-1], SIGMAS[1:]
    step = transition(name, velocity, noisy, sigma, sigma_next, eta=0.0, sigma_max=MAX)
    euler = noisy + per_sample(sigma_next - sigma) * velocity
    assert torch.equal(step.mean, euler)
    assert torch.equal(step.std, torch.zeros_like(step.std))
    assert torch.equal(step.sample(noise, torch.float32), euler)


def test_cps_with_all_its_noise_draws_the_predicted_picture_anew() -> None:
    velocity, noisy, noise = batch()
    sigma, sigma_next = SIGMAS[:-1], SIGMAS[1:]
    step = transition("cps", velocity, noisy, sigma, sigma_next, eta=1.0)
    clean = noisy - per_sample(sigma) * velocity
    expected = (1 - per_sample(sigma_next)) * clean + per_sample(sigma_next) * noise
    torch.testing.assert_close(step.sample(noise, torch.float32), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("eta", [0.3, 0.8, 1.0])
def test_cps_keeps_the_level_of_noise_whatever_eta_is(eta: float) -> None:
    """With noisy = noise and clean = 0, what is left of the old noise and the new make sigma_next."""
    _, noisy, _ = batch()
    sigma, sigma_next = SIGMAS[:1].expand(4), SIGMAS[1:2].expand(4)
    step = transition("cps", noisy, noisy, sigma, sigma_next, eta=eta)  # velocity = noise - 0
    kept = (step.mean / noisy).mean()
    assert float((kept.square() + step.std.flatten()[0].square()).sqrt()) == pytest.approx(0.9, abs=1e-6)


def test_the_last_step_of_cps_is_the_predicted_picture() -> None:
    velocity, noisy, noise = batch()
    step = transition("cps", velocity, noisy, SIGMAS[3:4].expand(4), torch.zeros(4), eta=1.0)
    assert not step.std.any()
    torch.testing.assert_close(step.sample(noise, torch.float32), noisy - 0.2 * velocity)


def test_flow_by_hand() -> None:
    one = torch.ones(1, 1, 1, 1)
    step = transition(
        "flow", 2 * one, 3 * one, torch.tensor([0.6]), torch.tensor([0.2]), eta=1.0, sigma_max=MAX
    )
    # g^2 = 0.6 / 0.4 = 1.5, dt = -0.4: 3 (1 - 1.5 / 1.2 * 0.4) + 2 (1 + 1.5 * 0.4 / 1.2) (-0.4)
    assert float(step.mean) == pytest.approx(3 * 0.5 + 2 * 1.5 * -0.4, abs=1e-6)
    assert float(step.std) == pytest.approx(math.sqrt(1.5 * 0.4), abs=1e-6)
    assert float(step.kl_std) == pytest.approx(math.sqrt(1.5), abs=1e-6)
    assert float(step.sqrt_dt) == pytest.approx(math.sqrt(0.4), abs=1e-6)


def test_dance_by_hand() -> None:
    one = torch.ones(1, 1, 1, 1)
    step = transition("dance", 2 * one, 3 * one, torch.tensor([0.5]), torch.tensor([0.25]), eta=0.8)
    # clean = 3 - 0.5 * 2 = 2; 3 + (2 + 0.5 * 0.64 * (3 - 0.5 * 2) / 0.25) (-0.25)
    assert float(step.mean) == pytest.approx(3 - 0.25 * (2 + 0.32 * 2 / 0.25), abs=1e-6)
    assert float(step.std) == pytest.approx(0.8 * 0.5, abs=1e-6)
    assert torch.equal(step.std, step.kl_std)


def test_at_pure_noise_flow_takes_the_second_sigma_of_the_schedule() -> None:
    velocity, noisy, _ = batch(size=1)
    step = transition("flow", velocity, noisy, SIGMAS[:1], SIGMAS[1:2], eta=1.0, sigma_max=MAX)
    assert float(step.kl_std) == pytest.approx(math.sqrt(1 / (1 - MAX)), rel=1e-5)
    with pytest.raises(ValueError, match="needs sigma_max"):
        transition("flow", velocity, noisy, SIGMAS[:1], SIGMAS[1:2], eta=1.0)


@pytest.mark.parametrize("name", ["flow", "dance"])
def test_gaussian_log_prob_is_that_of_torch(name: str) -> None:
    velocity, noisy, noise = batch()
    step = transition(name, velocity, noisy, SIGMAS[:-1], SIGMAS[1:], eta=0.7, sigma_max=MAX)
    drawn = step.sample(noise, torch.float32)
    expected = torch.distributions.Normal(step.mean, step.std).log_prob(drawn).flatten(1).mean(1)
    torch.testing.assert_close(step.log_prob(drawn), expected, rtol=1e-5, atol=1e-5)  # 1e-8 in the variance


def test_cps_is_scored_by_the_squared_distance_alone() -> None:
    velocity, noisy, noise = batch()
    step = transition("cps", velocity, noisy, SIGMAS[:-1], SIGMAS[1:], eta=0.7)
    expected = -(step.std * noise).square().flatten(1).mean(1)
    torch.testing.assert_close(
        step.log_prob(step.sample(noise, torch.float32)), expected, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_replayed_log_prob_is_the_stored_one_after_storage_in_bfloat16(name: str) -> None:
    velocity, noisy, noise = (x.bfloat16() for x in batch())
    sigma, sigma_next = SIGMAS[:-1], SIGMAS[1:]
    step = transition(name, velocity, noisy, sigma, sigma_next, eta=0.9, sigma_max=MAX)
    stored = step.sample(noise, torch.bfloat16)
    assert stored.dtype == torch.bfloat16
    old = step.log_prob(stored)
    assert old.dtype == torch.float32

    parts = [
        transition(name, velocity[i : i + 1], noisy[i : i + 1], sigma[i : i + 1], sigma_next[i : i + 1],
                   eta=0.9, sigma_max=MAX).log_prob(stored[i : i + 1])
        for i in range(4)
    ]  # fmt: skip
    torch.testing.assert_close(torch.cat(parts), old, rtol=0, atol=1e-6)


def test_scoring_before_rounding_would_break_a_clip_range_of_1e_4() -> None:
    """Why `sample` rounds: the unrounded value has another log-prob."""
    velocity, noisy, noise = batch(size=1)
    step = transition("dance", velocity, noisy, SIGMAS[2:3], SIGMAS[3:4], eta=0.1)
    rounded, exact = step.sample(noise, torch.bfloat16), step.sample(noise, torch.float32)
    assert abs(float(step.log_prob(rounded) - step.log_prob(exact))) > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_a_log_prob_reaches_the_velocity_and_not_the_latents(name: str) -> None:
    velocity, noisy, noise = batch()
    velocity.requires_grad_()
    step = transition(name, velocity, noisy, SIGMAS[:-1], SIGMAS[1:], eta=0.7, sigma_max=MAX)
    drawn = (step.mean + step.std * noise).requires_grad_()
    drawn.retain_grad()
    step.log_prob(drawn).sum().backward()
    assert velocity.grad is not None
    assert velocity.grad[:3].abs().sum() > 0
    assert drawn.grad is None


def test_unknown_samplers_and_impossible_noise_are_refused() -> None:
    velocity, noisy, _ = batch()
    for name, eta, message in (
        ("ddim", 1.0, "known: flow, cps, dance"),
        ("cps", 1.1, "eta"),
        ("flow", -1.0, "eta"),
    ):
        with pytest.raises(ValueError, match=message):
            transition(name, velocity, noisy, SIGMAS[:-1], SIGMAS[1:], eta=eta, sigma_max=MAX)
