"""Everything of a run that must survive a restart.

Random numbers are keyed by sample and step (randomness.py) and the data's order is a function of the
step, so what has to be kept is the trained parameters, their moving averages, the optimizer's moments and
one integer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepgen.train.optim import OptimConfig, Optimizer, lr_factor


@dataclass(frozen=True)
class Snapshot:
    """A copy of a run's state on the CPU, which training can no longer change."""

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Tensor]


class TrainState:
    """Trained parameters, their optimizer, float32 moving averages and the step."""

    def __init__(self, modules: nn.Module, optim: OptimConfig, num_steps: int, ema_decay: float | None):
        self.parameters = {name: p for name, p in modules.named_parameters() if p.requires_grad}
        self.optimizer = Optimizer(self.parameters.items(), optim)
        self.num_steps = num_steps
        self.ema_decay = ema_decay
        # fp32: an average moves by less than a 16-bit mantissa can hold
        self.ema = (
            {} if ema_decay is None else {n: p.detach().float().clone() for n, p in self.parameters.items()}
        )
        self.step = 0

    @torch.no_grad()
    def update(self) -> dict[str, float]:
        """Clip, optimizer step at the schedule's rate, moving averages.

        Returns the gradient's norm before clipping, the norm of each part's, and the rate.
        """
        factor = lr_factor(self.optimizer.config, self.step, self.num_steps)
        norms = part_norms(self.parameters)
        norms["grad_norm"] = self.optimizer.step(factor)
        self.step += 1
        if self.ema_decay is not None:
            decay = min(
                self.ema_decay, (1 + self.step) / (10 + self.step)
            )  # short at first: forget the start
            averages = list(self.ema.values())
            torch._foreach_lerp_(averages, [p.float() for p in self.parameters.values()], 1 - decay)
        return {**norms, "lr_factor": factor}

    def snapshot(self) -> Snapshot:
        """Everything that must survive, copied to the CPU."""
        parameters = {name: p.detach() for name, p in self.parameters.items()}
        return Snapshot(self.step, _copy(parameters), _copy(self.ema), _copy(self.optimizer.tensors()))

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot, bit by bit.

        Raises:
            ValueError: it is of another model, or of a run with other averages.
        """
        _check_names("parameters", self.parameters, snapshot.model)
        _check_names("averages", self.ema, snapshot.ema)
        for name, parameter in self.parameters.items():
            parameter.copy_(snapshot.model[name])
        for name, average in self.ema.items():
            average.copy_(snapshot.ema[name])
        self.optimizer.load_tensors(snapshot.optimizer)
        self.step = snapshot.step


def part_norms(parameters: Mapping[str, nn.Parameter]) -> dict[str, float]:
    """Norm of the gradient in each part, by the first word of its parameters' names: `grad_norm/connector`.

    A part without any gradient is left out.
    """
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            parts.setdefault(name.split(".", 1)[0], []).append(parameter.grad)
    return {f"grad_norm/{part}": float(nn.utils.get_total_norm(found)) for part, found in parts.items()}


def _copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _check_names(what: str, ours: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    if ours.keys() != saved.keys():
        missing, foreign = sorted(ours.keys() - saved.keys()), sorted(saved.keys() - ours.keys())
        raise ValueError(
            f"the checkpoint's {what} are not this run's: {len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(foreign)} foreign ({', '.join(foreign[:3])}); resume with the config it was trained with"
        )
    for name, tensor in ours.items():
        if tensor.shape != saved[name].shape:
            raise ValueError(
                f"the checkpoint's {name} has shape {tuple(saved[name].shape)}, this run's "
                f"{tuple(tensor.shape)}; resume with the config it was trained with"
            )
