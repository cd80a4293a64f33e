"""A stage of a few numbers, to see what the loop does with a run in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from deepgen.training.config import StageLoss, TrainConfig
from deepgen.training.optim import OptimConfig
from deepgen.training.parallel import Processes


@dataclass(frozen=True, kw_only=True)
class ToyConfig(TrainConfig):
    """Least squares on noisy rows; `noise` is of a step's meaning, `factor` multiplies the loss of a step."""

    num_steps: int = 6
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=0.01, muon_lr=None, warmup_steps=1, decay_share=0.0)
    )
    ema_decay: float | None = 0.9
    log_every: int = 1
    save_every: int = 2
    device: str | None = "cpu"
    noise: float = 0.1
    factors: dict[int, float] = field(default_factory=dict)  # of the loss, by step from 1

    def build(self, processes: Processes) -> ToyStage:
        return ToyStage(self)


class ToyStage:
    """Two micro-batches a step.

    Attributes:
        before_loss: called with the step, from 1, before a micro-batch is computed.
    """

    before_loss: Callable[[int], Any] | None = None

    def __init__(self, config: ToyConfig) -> None:
        self.config = config
        self.modules: nn.Module = nn.ModuleDict({"part": nn.Linear(3, 1), "other": nn.Linear(1, 2)})
        self.step = 0

    def batches(self, step: int) -> list[torch.Tensor]:
        self.step = step + 1
        rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        return [*(rows + self.config.noise).split(2)]

    def loss(self, batch: torch.Tensor) -> StageLoss:
        if ToyStage.before_loss is not None:
            ToyStage.before_loss(self.step)
        parts: Any = self.modules
        loss = (parts["other"](parts["part"](batch)) - 1).square().mean() / 2
        loss = loss * self.config.factors.get(self.step, 1.0)
        return StageLoss(loss, {"loss": (2 * float(loss.detach()), 1.0)}, watched={"rows": batch.sum()})
