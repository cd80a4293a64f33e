"""The mathematics of distillation against ODEs whose solution is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepgen.distillation.mean_velocity import mean_velocity, mean_velocity_losses, teacher_path


def decay(noisy: Tensor, sigma: Tensor) -> Tensor:
    """dx/dsigma = x - sigma, solved by x = c e^sigma + sigma + 1."""
    return noisy - sigma.view(-1, 1, 1, 1)


def solution(noisy: Tensor, sigma: float, sigma_next: float) -> Tensor:
    grown = (noisy - sigma - 1) * torch.tensor(sigma_next - sigma).exp()
    return grown + sigma_next + 1


def test_a_constant_velocity_is_followed_exactly_in_one_step() -> None:
    noisy = torch.randn(2, 1, 2, 2)
    velocity = torch.full_like(noisy, 0.7)
    reached = teacher_path(lambda x, s: velocity, noisy, torch.tensor([1.0, 0.25]))
    torch.testing.assert_close(reached, noisy - 0.75 * 0.7)
    torch.testing.assert_close(mean_velocity(noisy, reached, 1.0, 0.25), velocity)


def test_the_teachers_solver_is_of_second_order_with_steps_of_any_lengths() -> None:
    noisy, errors = torch.randn(3, 1, 2, 2, dtype=torch.float32), []
    for count in (8, 16):
        levels = (1 - torch.arange(count + 1) / count) ** 1.5  # closer together towards the picture
        reached = teacher_path(decay, noisy, levels)
        errors.append(float((reached - solution(noisy, 1.0, 0.0)).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.25)


def test_the_solver_asks_once_a_step_and_once_more() -> None:
    asked: list[float] = []

    def velocity(noisy: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma[0]))
        return noisy

    teacher_path(velocity, torch.zeros(1, 1, 1, 1), torch.tensor([1.0, 0.8, 0.5]))
    assert asked == pytest.approx([1.0, 0.9, 0.8])


def test_a_step_with_the_mean_velocity_lands_where_the_ode_does_and_costs_no_loss() -> None:
    noisy = torch.randn(2, 1, 2, 2)
    reached = solution(noisy, 0.9, 0.3)
    mean = mean_velocity(noisy, reached, 0.9, 0.3)
    torch.testing.assert_close(noisy + (0.3 - 0.9) * mean, reached)
    assert mean_velocity_losses(mean, mean).tolist() == [0, 0]
    assert mean_velocity_losses(mean + torch.tensor([0.5, 2.0]).view(2, 1, 1, 1), mean).tolist() == (
        pytest.approx([0.25, 4.0])
    )
