"""The one training loop, for every stage: a stage supplies the batches and their loss."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deepgen.training.checkpoints import (
    CheckpointWriter,
    check_checkpoint,
    latest_checkpoint,
    read_checkpoint_folder,
)
from deepgen.training.log import RunLog
from deepgen.training.optim import OptimConfig
from deepgen.training.parallel import Processes
from deepgen.training.run_folder import add_to_record, open_run
from deepgen.training.sharding import MicroBatchSync, Sharding, is_sharded
from deepgen.training.state import TrainState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every stage has: length, seed, optimizer, and how often something is written.

    Steps are optimizer steps, whatever a step's batch is divided into.
    """

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

    def __post_init__(self) -> None:
        """Refuse counts below one, and what cannot be divided."""
        if min(self.num_steps, self.log_every, self.save_every, self.keep) < 1:
            raise ValueError("num_steps, log_every, save_every and keep must be at least 1")
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

    def record(self) -> dict[str, Any]:
        """What the run's folder should say beside the config, once the stage is built."""
        return {}

    def check_resume(self, written: Mapping[str, Any], output_dir: Path) -> None:
        """ValueError where a run whose config.json says this cannot go on with this config."""

    def build(self, processes: Processes) -> Stage:
        """The stage this config describes, on this process's device."""
        raise NotImplementedError


@dataclass(frozen=True)
class StageLoss:
    """Of one micro-batch.

    Attributes:
        loss: scalar; added up over the micro-batches of all processes it is the step's loss.
        metrics: what to log, each as (sum, count), so that means are right whatever the batches' sizes.
        flops: arithmetic of the micro-batch, where the stage knows it.
    """

    loss: Tensor
    metrics: dict[str, tuple[float, float]]
    flops: float = 0.0


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
    for what it has to say of a step beside its losses, each as (sum, count). Who calls
    `sharding.shard` on the modules is the stage, which knows what every micro-batch passes through.
    """

    modules: nn.Module

    def batches(self, step: int) -> Iterable[Any]:
        """This process's micro-batches of a step, a pure function of config and step."""
        ...

    def loss(self, batch: Any) -> StageLoss:
        """A micro-batch's share of the step's loss."""
        ...


def train(
    config: TrainConfig,
    output_dir: Path,
    *,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
) -> TrainState:
    """Run a stage to its last step, or to an interrupt, after which the state is saved.

    Args:
        config: the recipe.
        output_dir: gets config.json, log.jsonl and checkpoints.
        resume: continue from the newest checkpoint there.
        about: written beside the config, to tell later where it came from.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    processes = Processes(config.device)
    with open_run(output_dir, config, about, resume=resume, is_main=processes.is_main):
        torch.manual_seed(config.seed)
        stage = config.build(processes)
        if processes.is_main:
            add_to_record(output_dir, config.record())
        state = TrainState(stage.modules, config.optim, config.num_steps, config.ema_decay, processes)
        if resume:
            newest = latest_checkpoint(output_dir)
            check_checkpoint(newest, processes)
            state.restore(read_checkpoint_folder(newest, state.pieces))
        with _interruptible() as stopped, RunLog(output_dir, config, processes, state.step) as log:
            _run(config, stage, state, processes, log, output_dir, stopped)
    return state


def _run(
    config: TrainConfig,
    stage: Stage,
    state: TrainState,
    processes: Processes,
    log: RunLog,
    output_dir: Path,
    stopped: list[int],
) -> None:
    writer = _writer(config, stage, processes, output_dir)
    synced = MicroBatchSync(stage.modules, processes, sums_once=config.sums_once)
    saved = state.step
    period = getattr(stage, "period", 1)
    try:
        while state.step < config.num_steps:
            if state.step % period == 0 and processes.any(bool(stopped)):
                break
            waited = time.perf_counter()
            for number, micro_batch in enumerate(synced(stage.batches(state.step))):
                log.waited(time.perf_counter() - waited)
                # of dropout inside the models; here, because opening the data draws from the same generator
                torch.manual_seed(hash((config.seed, state.step, processes.rank, number)))
                result = stage.loss(micro_batch.batch)
                (result.loss if micro_batch.is_counted else 0 * result.loss).backward()
                log.add(result.metrics if micro_batch.is_counted else {})
                log.computed(result.flops)
                waited = time.perf_counter()
            log.add({name: (value, 1.0) for name, value in state.update().items()})
            log.add(stage.take_metrics() if hasattr(stage, "take_metrics") else {})
            is_last = state.step == config.num_steps
            for observer in getattr(stage, "observers", ()):
                if state.step % observer.every == 0 or is_last:
                    log.add(observer(state.step, output_dir))
                    log.show(state.step)
            if state.step % config.log_every == 0 or is_last:
                log.write(state.step)
            if writer is not None:
                writer.publish()
            if state.step % config.save_every == 0 and state.step % period == 0 and writer is not None:
                writer.save(state.snapshot())
                saved = state.step
        if writer is not None and saved != state.step:
            writer.save(state.snapshot())
        if writer is not None:
            writer.wait()
    finally:
        if writer is not None:
            writer.close()
    processes.wait()


def _writer(
    config: TrainConfig, stage: Stage, processes: Processes, output_dir: Path
) -> CheckpointWriter | None:
    """Every process writes what it alone holds; what all of them hold, the main one."""
    if is_sharded(stage.modules):
        return CheckpointWriter(output_dir, config.keep, processes)
    return CheckpointWriter(output_dir, config.keep) if processes.is_main else None


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that is empty until the first SIGINT or SIGTERM, so that a step is never cut in half."""
    stopped: list[int] = []
    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, lambda received, _: stopped.append(received))
    except ValueError:  # not the main thread, where no signal arrives
        yield stopped
        return
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
