"""Distribution matching: the mathematics that lets a student draw what its teacher draws, not as it draws it.

A regression onto the teacher's paths (mean_velocity.py) asks for the very picture that the teacher makes of
the same noise. Where it is decided what stands where, that map is steep: a student that fits it almost lands
between two pictures, with a thing too many or half of one. Here the student may make any picture of any
noise, as long as its pictures are distributed as the teacher's: the gradient is that of the reverse
Kullback-Leibler divergence between both, blurred by noise of every level,

    score of the teacher - score of the student = (1 - tau) / tau * (v_fake - v_teacher)   at x_tau

(distribution matching distillation, arXiv 2311.18828, equation 7; arXiv 2405.14867). The student's score
is that of a second network, the fake score, which starts as the teacher and learns by ordinary flow
matching on what the student draws. Both are LoRAs on one frozen base (RTDMD, Harahan/RTDMD). The gradient
goes through all steps of the student, so every step learns what it does to the picture in the end.

Reverse divergence may drop variety, which regression keeps: begin with a regressed student, and measure.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

Velocity = Callable[[Tensor, float], Tensor]

# B samples; C, h, w latent channels and sides


def draw_by_steps(velocity: Velocity, noise: Tensor, sigmas: Sequence[float]) -> Tensor:
    """What a student of few steps draws, float32 (B, C, h, w); gradients pass through all steps.

    Args:
        velocity: (noisy (B, C, h, w), noise level) to mean velocity (B, C, h, w).
        noise: (B, C, h, w).
        sigmas: its noise levels, falling to 0.
    """
    x = noise.float()
    for sigma, sigma_next in pairwise(sigmas):
        x = x + (sigma_next - sigma) * velocity(x, sigma).float()
    return x


def blurred(drawn: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """(1 - sigma) x + sigma n with the levels (B,) of every sample: (B, C, h, w)."""
    level = sigma.view(-1, 1, 1, 1)
    return (1 - level) * drawn + level * noise


def matching_losses(drawn: Tensor, noisy: Tensor, sigma: Tensor, teacher: Tensor, fake: Tensor) -> Tensor:
    """Half the squared distance to where the pictures should move, float32 (B,).

    Both velocities stand for clean pictures x_tau - tau v, whose difference is the gradient; it is divided
    by the mean distance of the picture from the teacher's, so that every sample and level counts alike
    (arXiv 2311.18828, equation 8).

    Args:
        drawn: the student's pictures, with gradient, (B, C, h, w).
        noisy: the same, blurred, (B, C, h, w).
        sigma: by these levels, (B,).
        teacher: velocities of the teacher there, (B, C, h, w).
        fake: velocities of the fake score there, (B, C, h, w).
    """
    with torch.no_grad():
        level, teacher, fake = sigma.view(-1, 1, 1, 1), teacher.float(), fake.float()
        distance = (drawn - (noisy - level * teacher)).abs().mean((1, 2, 3), keepdim=True)
        target = drawn + level * (fake - teacher) / distance.clamp_min(1e-3)
    return (drawn - target).square().flatten(1).mean(1) / 2


def fake_score(transformer: nn.Module) -> nn.Module:
    """A second network on the same frozen weights: adapters of its own, which change nothing yet.

    Where all weights learn it is a copy.

    Args:
        transformer: the student, whose trained parameters require a gradient; adapters as peft names them.
    """
    frozen = [p for p in transformer.parameters() if not p.requires_grad]
    shared = {id(p): p for p in [*frozen, *transformer.buffers()]}
    fake = copy.deepcopy(transformer, shared)
    with torch.no_grad():
        for name, parameter in fake.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    return fake
