"""Training state that must survive a restart: weights, averages, optimizer moments, step.

Random numbers are keyed by sample and step (randomness.py) and the data's order is a function of the
step, so what has to be kept is the trained parameters, their moving averages, the optimizer's moments and
one integer. Of a model divided among processes, each keeps its own rows of all of these.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deepgen.models.errors import NotFiniteError
from deepgen.training.finite import StepWatch, listed, not_finite
from deepgen.training.optim import OptimConfig, Optimizer, lr_factor
from deepgen.training.parallel import Processes
from deepgen.training.sharding import ShardSlice, own_rows, piece_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """A copy of a run's state on the CPU, which training can no longer change.

    Attributes:
        pieces: parameters of which it holds some rows only, and which.
        num_skipped: steps of the run that were left out because something was not finite.
        is_finite: every number was looked at and is finite.
    """

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    pieces: Mapping[str, ShardSlice] = field(default_factory=dict)
    num_skipped: int = 0
    is_finite: bool = False

    def piece(self, name: str, tensor: Tensor) -> ShardSlice | None:
        """Which rows a tensor of it is, a moment's being those of its parameter; None where it is whole."""
        parameter = name if name in self.pieces else name.rpartition("/")[0]
        return self.pieces.get(parameter) if tensor.ndim else None


class TrainState:
    """Trained parameters, their optimizer, float32 moving averages and the step.

    Args:
        modules: what is trained, already divided if it is to be.
        optim: how.
        num_steps: of the whole run.
        ema_decay: of the averages; None keeps none.
        processes: those of the run; None if there is one only.
        max_skipped: how many steps may be left out because something was not finite.

    Attributes:
        parameters: what this process updates: its rows of divided parameters, and all of the others.
        pieces: which parameters are divided, and which rows these are.
        num_skipped: steps that were left out so far.
        weights_step: of the last update; later steps were left out.
    """

    def __init__(
        self,
        modules: nn.Module,
        optim: OptimConfig,
        num_steps: int,
        ema_decay: float | None,
        processes: Processes | None = None,
        max_skipped: int = 0,
    ):
        self._modules, self.max_skipped, self.num_skipped = modules, max_skipped, 0
        self._held = {name: p for name, p in modules.named_parameters() if p.requires_grad}  # by the modules
        self.parameters = {name: own_rows(p) for name, p in self._held.items()}
        pieces = {name: piece_of(p) for name, p in self._held.items()}
        self.pieces = {name: piece for name, piece in pieces.items() if piece is not None}
        self._processes = processes
        divided = {self.parameters[name]: piece for name, piece in self.pieces.items()}
        self.optimizer = Optimizer(self.parameters.items(), optim, divided)
        self.num_steps = num_steps
        self.ema_decay = ema_decay
        # fp32: an average moves by less than a 16-bit mantissa can hold
        self.ema = (
            {} if ema_decay is None else {n: p.detach().float().clone() for n, p in self.parameters.items()}
        )
        self.step = self.weights_step = 0

    @torch.no_grad()
    def update(self, watch: StepWatch | None = None) -> dict[str, float] | None:
        """Sum gradients over processes, clip, optimizer step at the schedule's rate, moving averages.

        Returns the gradient's norm before clipping, the norm of each part's, and the rate; None where the
        step was left out.

        Args:
            watch: scalars of the step's micro-batches, which have to be finite too.

        Raises:
            NotFiniteError: the loss, a gradient or an updated weight is not finite, and `max_skipped` steps
                were left out already. A loss or gradient that is not finite changes no weight.
        """
        self._collect_gradients()
        factor = lr_factor(self.optimizer.config, self.step, self.num_steps)
        parts = self._part_norms()
        norm = torch.stack(list(parts.values())).norm()  # of all, without reading the gradients again
        norms = {"grad_norm": norm, **{f"grad_norm/{part}": value for part, value in parts.items()}}
        found, watched = self._read(norms, watch or StepWatch())
        if self._is_anywhere(bool(watched) or not all(map(math.isfinite, found.values()))):
            self._leave_out(watched)
            return None
        self.optimizer.step(factor, norm)
        self.step += 1
        if self._is_anywhere_divided(bool(broken := not_finite(self.parameters))):
            raise NotFiniteError(
                f"the update of step {self.step} made weights NaN or infinite"
                + (f": {listed('weights', broken, len(self.parameters))}" if broken else "")
            )
        self.weights_step = self.step
        if self.ema_decay is not None:
            decay = min(
                self.ema_decay, (1 + self.step) / (10 + self.step)
            )  # short at first: forget the start
            averages = list(self.ema.values())
            torch._foreach_lerp_(averages, [p.float() for p in self.parameters.values()], 1 - decay)
        return {**found, "lr_factor": factor}

    def _read(self, norms: Mapping[str, Tensor], watch: StepWatch) -> tuple[dict[str, float], list[str]]:
        """The norms, and which of the watched scalars are not finite: one wait for the device."""
        device = next(iter(norms.values())).device
        values = [value.to(device, torch.float32).reshape(()) for value in norms.values()]
        numbers = torch.stack([*values, *watch.values(device)]).tolist()
        return dict(zip(norms, numbers, strict=False)), watch.faults(numbers[len(norms) :])

    def _is_anywhere(self, value: bool) -> bool:
        """Whether it is true on some process: all of them leave a step out, or none."""
        several = self._processes is not None and self._processes.world_size > 1
        return self._processes.any(value) if several and self._processes is not None else value

    def _is_anywhere_divided(self, value: bool) -> bool:
        """The same where each process has rows of its own; otherwise all of them have the same weights."""
        return self._is_anywhere(value) if self.pieces else value

    def _leave_out(self, watched: list[str]) -> None:
        """Go on with the next step where that is allowed; otherwise NotFiniteError with what is found."""
        gradients = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        held = {n: own_rows(p) for n, p in self._modules.named_parameters()}
        weights, broken = not_finite(held), not_finite(gradients)
        faults = [
            *([listed("NaN or infinity in weights", weights, len(held))] if weights else []),
            *watched[:3],
            *([listed("NaN or infinity in the gradient", broken, len(gradients))] if broken else []),
        ]
        came_in = [fault for fault in watched if not fault.startswith("loss ")]
        everyone = self._processes.gather((faults, came_in)) if self._processes else [(faults, came_in)]
        if len(everyone) > 1:  # what all of them see, such as summed gradients, is said once
            shared = [fault for fault in faults if all(fault in found for found, _ in everyone)]
            own = [
                f"process {rank}: {fault}"
                for rank, (found, _) in enumerate(everyone)
                for fault in found
                if fault not in shared
            ]
            faults = [*own, *shared]
        text = "; ".join(faults) or "the norm of the gradient is too large for a float32"
        self.step += 1
        self.num_skipped += 1
        self.optimizer.clear_gradients()
        if self.num_skipped > self.max_skipped:
            count = f" ({self.max_skipped} steps were left out before)" if self.max_skipped else ""
            is_of_weights = not any(found for _, found in everyone)  # and not of latents that came in
            raise NotFiniteError(
                f"step {self.step} is not finite{count}: {text}", self.weights_step if is_of_weights else None
            )
        logger.warning(
            "step %d is left out, %d of %d that may be: %s",
            self.step,
            self.num_skipped,
            self.max_skipped,
            text,
        )

    def _part_norms(self) -> dict[str, Tensor]:
        """Norm of the gradient in each part, by the first word of its parameters' names."""
        parts: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            parts.setdefault(name.split(".", 1)[0], []).append(parameter)
        return {part: self.optimizer.norm(found) for part, found in parts.items()}

    def _collect_gradients(self) -> None:
        """Those of divided parameters are summed already, and taken; the others are summed here."""
        for name in self.pieces:
            gradient: Any = self._held[name].grad
            self.parameters[name].grad = None if gradient is None else gradient.to_local()
            self._held[name].grad = None
        if self._processes is not None:
            self._processes.sum_gradients([p for n, p in self.parameters.items() if n not in self.pieces])

    def snapshot(self) -> Snapshot:
        """Everything that must survive, copied to the CPU.

        Raises:
            NotFiniteError: weights, averages or moments are not finite.
        """
        parameters = {name: p.detach() for name, p in self.parameters.items()}
        moments = self.optimizer.tensors()
        faults = [
            listed(what, found, len(tensors))
            for what, tensors in (("weights", parameters), ("averages", self.ema), ("moments", moments))
            if (found := not_finite(tensors))
        ]
        if self._is_anywhere_divided(bool(faults)):
            text = "; ".join(faults) or "found by another process, see its message"
            # of whole weights the main process alone takes a snapshot
            raise NotFiniteError(
                f"step {self.step} is not saved, NaN or infinity in {text}", is_everywhere=bool(self.pieces)
            )
        return Snapshot(
            self.step,
            _copy(parameters),
            _copy(self.ema),
            _copy(moments),
            self.pieces,
            num_skipped=self.num_skipped,
            is_finite=True,
        )

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
        self.step, self.num_skipped = snapshot.step, snapshot.num_skipped
        self.weights_step = self.step


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
