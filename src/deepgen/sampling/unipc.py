"""UniPC whose coefficients are computed on the host.

Both updates of UniPC (arXiv 2302.04867, section 3) add latents, predictions of the clean latents and
differences of those, each times a number that the noise levels alone give. diffusers' solver computes these
numbers on the device of the latents, where each noise level has to be copied to and a linear system's
solution has to be waited for, several times a step. Here they are numbers of the host, which a kernel is
given as arguments. The order of operations is diffusers', so that the latents are the same bit for bit where
only one difference is added, up to order 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor


@dataclass(frozen=True)
class _UpdateCoefficients:
    """Numbers of one update, float32 tensors without dimensions, from sigma_s to sigma_t.

    x_t = of_sample * x_s - of_clean * m_s - of_differences * (sum_k weights[k] * differences[k] + ...),
    where m are predictions of the clean latents and differences[k] = (m_k - m_s) / ratios[k].
    """

    of_sample: Tensor
    of_clean: Tensor
    of_differences: Tensor
    ratios: Sequence[Tensor]
    matrix: Tensor  # R of the paper's equation 5
    vector: Tensor  # and b


class HostUniPC(UniPCMultistepScheduler):
    """diffusers' UniPC; for predictions of the clean latents, which is what flow matching uses."""

    def multistep_uni_p_bh_update(
        self, model_output: Tensor, *args: Any, sample: Tensor, order: int, **kwargs: Any
    ) -> Tensor:
        """The predictor: latents at the next level, (B, C, h, w), from the sample at this one."""
        step, clean = self.step_index, self._predictions[-1]
        one = self._coefficients(step, step + 1, [step - k for k in range(1, order)])
        moved = one.of_sample * sample - one.of_clean * clean
        weights = [torch.tensor(0.5)] if order == 2 else _solved(one, order - 1)
        change = self._weighted(one, weights, clean)
        return moved if change is None else moved - one.of_differences * change

    def multistep_uni_c_bh_update(
        self,
        this_model_output: Tensor,
        *args: Any,
        last_sample: Tensor,
        this_sample: Tensor,
        order: int,
        **kwargs: Any,
    ) -> Tensor:
        """The corrector: this level's latents again, (B, C, h, w), with what the model said of them."""
        step, clean = self.step_index, self._predictions[-1]
        one = self._coefficients(step - 1, step, [step - 1 - k for k in range(1, order)])
        moved = one.of_sample * last_sample - one.of_clean * clean
        *weights, last = [torch.tensor(0.5)] if order == 1 else _solved(one, order)
        change = self._weighted(one, weights, clean)
        newest = last * (this_model_output - clean)
        return moved - one.of_differences * (newest if change is None else change + newest)

    @property
    def _predictions(self) -> list[Any]:
        """Of the clean latents, (B, C, h, w) each, the newest last."""
        return self.model_outputs

    def _coefficients(self, source: int, target: int, others: Sequence[int]) -> _UpdateCoefficients:
        """Of the step from one level to another, both by number, with the levels of older predictions."""
        alpha_t, sigma_t = self._sigma_to_alpha_sigma_t(self.sigmas[target])
        _, sigma_s = self._sigma_to_alpha_sigma_t(self.sigmas[source])
        width = self._log_snr(target) - self._log_snr(source)  # h
        ratios = [(self._log_snr(other) - self._log_snr(source)) / width for other in others]
        first = torch.expm1(-width)
        scale = -width if self.config.solver_type == "bh1" else first  # B(h)
        rows, values, phi, factorial = [], [], first / -width - 1, 1
        nodes = torch.stack([*ratios, torch.ones(())])
        for power in range(len(nodes)):
            rows.append(nodes**power)
            values.append(phi * factorial / scale)
            factorial *= power + 2
            phi = phi / -width - 1 / factorial
        return _UpdateCoefficients(
            of_sample=sigma_t / sigma_s,
            of_clean=alpha_t * first,
            of_differences=alpha_t * scale,
            ratios=ratios,
            matrix=torch.stack(rows),
            vector=torch.stack(values),
        )

    def _log_snr(self, level: int) -> Tensor:
        """lambda = log(alpha / sigma) of the level of this number."""
        alpha, sigma = self._sigma_to_alpha_sigma_t(self.sigmas[level])
        return torch.log(alpha) - torch.log(sigma)

    def _weighted(self, one: _UpdateCoefficients, weights: Sequence[Tensor], clean: Tensor) -> Tensor | None:
        """The weighted sum of the differences to older predictions, newest first; None of none."""
        older = [self._predictions[-(k + 2)] for k in range(len(one.ratios))]
        terms = [
            weight * ((other - clean) / ratio)
            for weight, other, ratio in zip(weights, older, one.ratios, strict=True)
        ]
        total = terms[0] if terms else None
        for term in terms[1:]:
            total = term if total is None else total + term
        return total


def _solved(one: _UpdateCoefficients, count: int) -> list[Tensor]:
    """The first so many weights."""
    if not count:
        return []
    return list(torch.linalg.solve(one.matrix[:count, :count], one.vector[:count]))
