"""What has to be finite in a step: latents, the loss, gradients, weights, averages.

A NaN in one place is everywhere after the next update, and every checkpoint from then on is lost. So a step
is applied only where all of it is finite. Scalars stay on the device until the step is complete and are
read together, once; weights are looked at by one fused norm. Names are looked up only after something was
found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deepgen.checkpoints.spans import all_finite
from deepgen.models.errors import NotFiniteError
from deepgen.training.config import StageLoss

_MAX_NAMED = 3


@dataclass
class StepWatch:
    """Scalars of a step's micro-batches: their losses, and what stages give as `StageLoss.watched`."""

    _names: list[str] = field(default_factory=list)
    _values: list[Tensor] = field(default_factory=list)
    _num_batches: int = 0

    def add(self, result: StageLoss, batch: Any) -> None:
        """What a micro-batch gave; nothing is read yet."""
        self._num_batches += 1
        samples = getattr(batch, "samples", ())
        about = f" (samples {', '.join(map(str, samples))})" if len(samples) else ""
        for name, value in {**result.watched, "loss": result.loss}.items():
            self._names.append(f"{name} of micro-batch {self._num_batches}{about}")
            self._values.append(value.detach().reshape(()))

    def values(self, device: torch.device) -> list[Tensor]:
        """The scalars, float32 on the device, in the order of `faults`."""
        return [value.to(device, torch.float32) for value in self._values]

    def faults(self, values: Sequence[float]) -> list[str]:
        """Names of those that are not finite, each with its value."""
        pairs = zip(self._names, values, strict=True)
        return [f"{name} is {value}" for name, value in pairs if not math.isfinite(value)]


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity; one fused pass where none does."""
    floats = {name: value.detach() for name, value in tensors.items() if value.is_floating_point()}
    if not floats or math.isfinite(float(nn.utils.get_total_norm(list(floats.values())))):
        return []
    return [name for name, value in floats.items() if not all_finite(value)]


def listed(what: str, names: Sequence[str], total: int) -> str:
    """Such as `gradient of a, b, c and 7 others of 12`."""
    first, others = ", ".join(names[:_MAX_NAMED]), len(names) - _MAX_NAMED
    return f"{what} of {first}" + (f" and {others} others of {total}" if others > 0 else "")


def require_finite(what: str, tensors: Mapping[str, Tensor], advice: str) -> None:
    """Raise NotFiniteError where a tensor is not finite, naming what, which tensors, and what to do."""
    if found := not_finite(tensors):
        raise NotFiniteError(f"{listed(what, found, len(tensors))} hold NaN or infinity; {advice}")
