"""Mean velocities: what a step of a distilled model should be, and the loss of one.

A step from noise level s to t < s lands exactly where the teacher's probability-flow ODE goes if its velocity
is the mean of the teacher's over that piece of the path,

    u(x_s, s, t) = 1 / (t - s) * integral of v(x_r, r) dr from s to t = (x_t - x_s) / (t - s)

(MeanFlow, arXiv 2505.13447, equation 3; many steps of a teacher in one of a student: progressive
distillation, arXiv 2202.00512). x_t is a function of x_s, so the minimiser of the squared error is that
function itself and nothing is averaged away: a student that fits draws what its teacher draws from the same
noise, and with it keeps the teacher's variety. The integral is solved (`teacher_path`), not differentiated,
so that no product of Jacobian and vector is needed.

Where the student's own steps lead is not where the teacher's path lies, and a network that has seen the path
alone goes wrong more with each step. So the states x_s also come from the student's own steps, with the
teacher's answer from there (DAgger, arXiv 1011.0686; for flows backward distillation, arXiv 2405.05224, and
pi-Flow, arXiv 2510.14974).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]

# B samples; C, h, w latent channels and sides


def mean_velocity(noisy: Tensor, reached: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """(x_t - x_s) / (t - s), (B, C, h, w) from states at noise levels s and t."""
    return (reached - noisy) / (sigma_next - sigma)


def mean_velocity_losses(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of every sample, float32 (B,)."""
    return (velocity.float() - target.float()).square().flatten(1).mean(1)


@torch.no_grad()
def teacher_path(velocity: Velocity, noisy: Tensor, sigmas: Tensor) -> Tensor:
    """Follow an ODE along noise levels: x at the last of them, float32 (B, C, h, w).

    Adams-Bashforth of second order with steps of any lengths, begun by a midpoint step: one call of the model
    a step and one more, and it needs no past, so it may begin at any state.

    Args:
        velocity: (noisy (B, C, h, w), sigma (B,)) to velocity (B, C, h, w).
        noisy: states at the first level, (B, C, h, w).
        sigmas: falling levels, float32 (n + 1,), at least two.
    """
    x, last, last_step = noisy.float(), None, 0.0
    for sigma, sigma_next in pairwise(sigmas):
        step = sigma_next - sigma
        here = velocity(x, sigma.expand(len(x))).float()
        if last is None:
            middle = x + step / 2 * here
            slope = velocity(middle, (sigma + step / 2).expand(len(x))).float()
        else:
            slope = here + step / (2 * last_step) * (here - last)
        x, last, last_step = x + step * slope, here, step
    return x
