"""What the training loop and its stages agree on: the settings every run has, and what a stage offers.

Apart from the loop, so that a stage can be read and used without files, logs and interrupts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from deepgen.config import BELOW_ONE, COUNT, NOT_NEGATIVE, POSITIVE, SHARE, check_bounds
from deepgen.training.optim import OptimConfig
from deepgen.training.parallel import Processes
from deepgen.training.sharding import Sharding

# What numbers of a stage may be, those of one part alone included: one name means one thing in all stages.
_BOUNDS = {
    **dict.fromkeys(("num_threads", "batch_size", "edit_batch_size", "pool_size", "crop"), COUNT),
    **dict.fromkeys(("scenes", "num_candidates", "height", "width", "rollout_batch_size"), COUNT),
    **dict.fromkeys(("whole_share", "other_share", "edit_share", "empty_share", "same_length_share"), SHARE),
    **dict.fromkeys(("simple_share", "plain_share", "dropout"), SHARE),
    **dict.fromkeys(("seed", "pool_seed", "kl_weight", "detail_weight", "choice_weight"), NOT_NEGATIVE),
    **dict.fromkeys(("latent_noise", "pixel_noise", "code_noise", "logit_std"), NOT_NEGATIVE),
    **dict.fromkeys(("max_silent_tokens", "sheet_every", "guidance_scale"), NOT_NEGATIVE),
    **dict.fromkeys(("shift",), POSITIVE),
    **dict.fromkeys(("sheet_groups",), COUNT),
    "ema_decay": BELOW_ONE,
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every stage has: length, seed, optimizer, and how often something is written.

    Steps are optimizer steps, whatever a step's batch is divided into.

    Attributes:
        num_steps: optimizer steps of the run.
        seed: of everything random: data order, noise, fresh weights.
        optim: optimizer, learning rates and schedule.
        ema_decay: of the moving average of weights that is exported, a step; none keeps no average.
        log_every: steps between two lines of the log.
        save_every: steps between two checkpoints.
        num_threads: of this process; none leaves PyTorch's choice.
    """

    # Fields that say where something lies which is compared by its content when a run goes on.
    places: ClassVar[tuple[str, ...]] = ()

    num_steps: int = 1000
    seed: int = 0
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema_decay: float | None = 0.998
    log_every: int = 50
    save_every: int = 200
    keep: int = 2  # checkpoints
    num_threads: int | None = None
    device: str | None = None  # "cpu" keeps to the CPU
    sharding: Sharding = "none"  # among several processes
    shards_frozen: bool = False  # weights that are not trained, too
    sums_once: bool = True  # sharded gradients, in a step's last backward; off: in each, and none stays whole
    trackers: tuple[str, ...] = ()  # tensorboard, wandb, trackio; log.jsonl is always written
    max_skipped_steps: int = 0  # left out because a loss or gradient is not finite; one more stops the run

    def __post_init__(self) -> None:
        """Refuse counts below one, and what cannot be divided."""
        if min(self.num_steps, self.log_every, self.save_every, self.keep) < 1:
            raise ValueError("num_steps, log_every, save_every and keep must be at least 1")
        if self.max_skipped_steps < 0:
            raise ValueError(f"max_skipped_steps must be at least 0, got {self.max_skipped_steps}")
        check_bounds(self, _BOUNDS)
        if self.shards_frozen and self.sharding != "fsdp":
            raise ValueError(
                f"frozen weights can be divided under fsdp alone, got sharding {self.sharding!r}; "
                "set sharding=fsdp or shards_frozen=false"
            )
        if self.optim.is_8bit and self.sharding != "none":
            raise ValueError(
                "moments in 8 bits cannot be divided: their scales span rows; "
                "set optim.is_8bit=false or sharding=none"
            )

    def with_known_length(self) -> TrainConfig:
        """The config whose `num_steps` is final, where it follows from data; itself where it does not."""
        return self

    def record(self) -> dict[str, Any]:
        """What the run's folder should say beside the config, once the stage is built."""
        return {}

    def facts(self, stage: Any) -> dict[str, Any]:
        """What the built stage learns from, to be compared when the run goes on: data, prompts, rewards."""
        return {}

    def check_resume(self, written: Mapping[str, Any], output_dir: Path) -> None:
        """ValueError where a run whose config.json says this cannot go on with this config."""

    def build(self, processes: Processes) -> Stage:
        """The stage this config describes, on this process's device."""
        raise NotImplementedError


StepMetrics = Mapping[str, tuple[float | Tensor, float]]  # (sum, count) by name


@dataclass(frozen=True)
class StageLoss:
    """Of one micro-batch.

    Attributes:
        loss: scalar; added up over the micro-batches of all processes it is the step's loss.
        metrics: what to log, each as (sum, count), so that means are right whatever the batches'
        sizes. A sum may
            be a scalar on the device: it is read when the log is written.
        flops: arithmetic of the micro-batch, where the stage knows it.
        watched: scalars on the device, by the name of what they are taken of, that are finite where all is
            well. They are read once a step, with the losses.
    """

    loss: Tensor
    metrics: StepMetrics
    flops: float = 0.0
    watched: Mapping[str, Tensor] = field(default_factory=dict)


class Observer(Protocol):
    """Looks at a run every so many steps."""

    every: int

    def __call__(self, step: int, output_dir: Path) -> dict[str, tuple[float, float]]:
        """What is seen, to log, each as (sum, count); pictures go into the run's folder."""
        ...


class Stage(Protocol):
    """What the loop needs: the modules to train, the batches of a step, and the loss of one.

    A stage may have `observers`, on the main process only unless the modules are sharded; a `period`: so
    many steps belong together, and a run is saved and stopped between such periods only; and `take_metrics`,
    for what it has to say of a step beside its losses, each as (sum, count); and `check_step`, which may stop
    the run after the last micro-batch and before the update. Who calls
    `sharding.shard` on the modules is the stage, which knows what every micro-batch passes through.
    """

    modules: nn.Module

    def batches(self, step: int) -> Iterable[Any]:
        """This process's micro-batches of a step, a pure function of config and step."""
        ...

    def loss(self, batch: Any) -> StageLoss:
        """A micro-batch's share of the step's loss."""
        ...
