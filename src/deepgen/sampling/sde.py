"""Stochastic samplers: one denoising step as a Gaussian whose log-probability can be computed later.

Reinforcement learning needs a policy that draws: a mean, a standard deviation and the log-prob of what was
drawn. All three samplers here are an Euler step of the probability-flow ODE, plus a pull away from the
predicted noise, plus fresh noise:

    mean = noisy + dt * velocity - pull * predicted_noise,    predicted_noise = noisy + (1 - sigma) * velocity

They differ in `pull` and in the noise they add; with eta = 0 both vanish and the Euler step is left, bit by
bit. Written this way the ODE is not a limit that rounding may miss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Density = Literal["gaussian", "squared"]

# A variance or a standard deviation of zero has no logarithm; the constants are Flow-GRPO's.
_TINY = 1e-8


@dataclass(frozen=True)
class Transition:
    """Where a step may lead: a normal distribution for every element, float32 throughout.

    Attributes:
        mean: (B, C, h, w), carries the gradient of the velocity it was made from.
        std: standard deviation of the noise that is added, (B, 1, 1, 1), 0 or more.
        kl_std: what a KL between two policies is measured in, (B, 1, 1, 1): `std`, but for `flow` the
            diffusion coefficient g, without the length of the step.
        sqrt_dt: sqrt(sigma - sigma_next), (B, 1, 1, 1).
        density: "gaussian" scores with the normal density, "squared" with -(x - mean)^2 alone.
    """

    mean: Tensor
    std: Tensor
    kl_std: Tensor
    sqrt_dt: Tensor
    density: Density

    def sample(self, noise: Tensor, dtype: torch.dtype) -> Tensor:
        """The next latents in the precision they are stored in, (B, C, h, w), for standard normal noise.

        They are rounded here, before anyone scores them: a log-prob of the unrounded value could not be
        reproduced from what was stored.
        """
        return (self.mean + self.std * noise.float()).to(dtype)

    def log_prob(self, next_noisy: Tensor) -> Tensor:
        """Log-density of stored next latents, mean over C, h and w, float32 (B,).

        The mean instead of the sum keeps ratios near 1 whatever the picture's size (Flow-GRPO, arXiv
        2505.05470). Gradients reach the mean only. A "squared" density leaves out 1 / (2 std^2) and the
        normaliser, so it exists where std is 0; a "gaussian" one says nothing there.
        """
        # fp32: bf16 has too few mantissa bits for a log-prob ratio that is clipped at 1e-4.
        squared = (next_noisy.detach().float() - self.mean).square()  # (B, C, h, w)
        if self.density == "squared":
            log_density = -squared
        else:
            log_density = (
                -squared / (2 * (self.std.square() + _TINY))
                - torch.log(self.std + _TINY)
                - 0.5 * math.log(2 * math.pi)
            )
        return log_density.flatten(1).mean(1)  # (B,)


@dataclass(frozen=True)
class _Coefficients:
    """What a sampler adds to the Euler step, each like sigma."""

    pull: Tensor
    std: Tensor
    kl_std: Tensor
    density: Density


def _flow(sigma: Tensor, sigma_next: Tensor, eta: float, sigma_max: float | None) -> _Coefficients:
    """Flow-GRPO (arXiv 2505.05470): g = eta * sqrt(sigma / (1 - sigma)), std = g * sqrt(-dt).

    At sigma = 1 the coefficient g is infinite, so the schedule's second sigma takes its place in 1 - sigma.
    """
    if sigma_max is None:
        raise ValueError(
            "sampler 'flow' needs sigma_max, the second sigma of the schedule, for its first step"
        )
    below_one = torch.where(sigma >= 1, sigma_max, sigma)
    g = eta * torch.sqrt(sigma / (1 - below_one))
    step = sigma - sigma_next
    return _Coefficients(g.square() / (2 * sigma) * step, g * step.sqrt(), g, "gaussian")


def _cps(sigma: Tensor, sigma_next: Tensor, eta: float, sigma_max: float | None) -> _Coefficients:
    """Coefficients-preserving sampling (arXiv 2509.05952): std = sigma_next * sin(eta * pi / 2).

    The predicted noise keeps sqrt(sigma_next^2 - std^2) = sigma_next * cos(eta * pi / 2), so noise of level
    sigma_next is in the picture whatever eta is; with eta = 1 all of it is fresh. Scored without variance.
    """
    std = sigma_next * math.sin(eta * math.pi / 2)
    return _Coefficients(sigma_next * (1 - math.cos(eta * math.pi / 2)), std, std, "squared")


def _dance(sigma: Tensor, sigma_next: Tensor, eta: float, sigma_max: float | None) -> _Coefficients:
    """DanceGRPO (arXiv 2505.07818): noise eta at every level, std = eta * sqrt(-dt).

    The score is -(noisy - (1 - sigma) * clean) / sigma^2 = -predicted_noise / sigma.
    """
    step = sigma - sigma_next
    std = eta * step.sqrt()
    return _Coefficients(0.5 * eta**2 * sigma / (sigma.square() + _TINY) * step, std, std, "gaussian")


_SAMPLERS: dict[str, Callable[[Tensor, Tensor, float, float | None], _Coefficients]] = {
    "flow": _flow,
    "cps": _cps,
    "dance": _dance,
}
NAMES = tuple(_SAMPLERS)


def check_sampler(name: str, eta: float) -> None:
    """ValueError unless the sampler is known and can be as noisy as eta says."""
    if name not in _SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; known: {', '.join(NAMES)}")
    if not math.isfinite(eta) or eta < 0:
        raise ValueError(f"eta must be a finite number, 0 or more, got {eta}; 0 is the ODE")
    if name == "cps" and eta > 1:
        raise ValueError(f"eta of sampler 'cps' must be in [0, 1], got {eta}")


def transition(
    name: str,
    velocity: Tensor,
    noisy: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    *,
    eta: float,
    sigma_max: float | None = None,
) -> Transition:
    """One step from sigma to sigma_next as a distribution, in float32 whatever the inputs are.

    Args:
        name: "flow", "cps" or "dance".
        velocity: noise - clean as predicted at `noisy`, (B, C, h, w).
        noisy: latents at sigma, (B, C, h, w).
        sigma: noise level of each sample, (B,) in (0, 1].
        sigma_next: the next one, (B,) in [0, sigma).
        eta: how much noise, 0 = the ODE; at most 1 for "cps".
        sigma_max: the schedule's second sigma, below 1; only "flow" asks for it.

    Raises:
        ValueError: the sampler is unknown, eta is outside its range, or "flow" has no sigma_max.
    """
    check_sampler(name, eta)
    shape = (-1, *[1] * (noisy.ndim - 1))
    sigma, sigma_next = sigma.float().view(shape), sigma_next.float().view(shape)  # (B, 1, 1, 1)
    velocity, noisy = velocity.float(), noisy.float()  # (B, C, h, w)
    added = _SAMPLERS[name](sigma, sigma_next, eta, sigma_max)  # each (B, 1, 1, 1)
    predicted_noise = noisy + (1 - sigma) * velocity
    return Transition(
        mean=noisy + (sigma_next - sigma) * velocity - added.pull * predicted_noise,
        std=added.std,
        kl_std=added.kl_std,
        sqrt_dt=(sigma - sigma_next).sqrt(),
        density=added.density,
    )
