"""The one training loop, for every stage: a stage supplies the batches and their loss."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from deepgen.training.checkpoints import (
    CheckpointWriter,
    check_checkpoint,
    latest_checkpoint,
    read_checkpoint_folder,
)
from deepgen.training.config import Stage, TrainConfig
from deepgen.training.log import RunLog
from deepgen.training.parallel import Processes
from deepgen.training.run_folder import add_to_record, open_run
from deepgen.training.sharding import MicroBatchSync, is_sharded
from deepgen.training.state import TrainState

logger = logging.getLogger(__name__)


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
    config = config.with_known_length()
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
