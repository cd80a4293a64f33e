"""The one training loop, for every stage: a stage supplies the batches and their loss."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deepgen.models.errors import NotFiniteError
from deepgen.training.changes import own_facts
from deepgen.training.checkpoints import CheckpointWriter, read_checkpoint_folder
from deepgen.training.config import Stage, StepMetrics, TrainConfig
from deepgen.training.finite import StepWatch
from deepgen.training.interrupts import interruptible
from deepgen.training.log import RunLog
from deepgen.training.parallel import Processes
from deepgen.training.resuming import Resume, checkpoint_to_resume, is_resumed, with_way_out
from deepgen.training.run_folder import open_run
from deepgen.training.sharding import MicroBatchSync, is_sharded
from deepgen.training.state import TrainState


def train(
    config: TrainConfig,
    output_dir: Path,
    *,
    resume: Resume = False,
    accept_changes: bool = False,
    about: Mapping[str, Any] | None = None,
) -> TrainState:
    """Run a stage to its last step, or to an interrupt, after which the state is saved.

    A second Ctrl-C ends it at once, with what was saved before.

    Args:
        config: the recipe.
        output_dir: gets config.json, log.jsonl and checkpoints.
        resume: continue from the newest checkpoint there; "auto" takes the newest whole one where that is
            damaged, and begins where there is none.
        accept_changes: go on although what a step means has changed since.
        about: written beside the config, to tell later where it came from.

    Raises:
        NotFiniteError: the loss, a gradient or a weight became NaN or infinite, and more steps than may be
            left out were. The last checkpoint stays.
        ValueError: the run cannot go on with this config, or would with other steps than before.
        CheckpointError: the checkpoint to go on from is damaged.
    """
    config = config.with_known_length()
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    processes = Processes(config.device)
    is_going_on = is_resumed(resume, output_dir)
    how = {"resume": is_going_on, "accepts_changes": accept_changes, "is_main": processes.is_main}
    with open_run(output_dir, config, about, **how) as record:
        chosen = checkpoint_to_resume(output_dir, processes, resume) if is_going_on else None
        torch.manual_seed(config.seed)
        stage = config.build(processes)
        skips, decay = config.max_skipped_steps, config.ema_decay
        state = TrainState(stage.modules, config.optim, config.num_steps, decay, processes, skips)
        if chosen is not None:
            state.restore(read_checkpoint_folder(chosen, state.pieces))
        known = {**config.record(), **record.user_files()}
        record.complete(known, {**own_facts(processes), **config.facts(stage)}, state.step)
        try:
            with interruptible() as stopped, RunLog(output_dir, config, processes, state.step) as log:
                _run(config, stage, state, processes, log, output_dir, stopped)
        except NotFiniteError as error:
            raise with_way_out(error, output_dir, processes) from error
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
    saved, is_good = state.step, True
    period = getattr(stage, "period", 1)
    try:
        while state.step < config.num_steps:
            if state.step % period == 0 and processes.any(bool(stopped)):
                break
            is_good = False
            _step(config, stage, state, processes, log, synced)
            is_good = state.weights_step == state.step
            if writer is not None and is_good:
                writer.settle()
            is_last = state.step == config.num_steps
            for observer in getattr(stage, "observers", ()):
                if state.step % observer.every == 0 or is_last:
                    log.add(observer(state.step, output_dir))
                    log.show(state.step)
            if state.step % config.log_every == 0 or is_last:
                log.add({"skipped_steps": (state.num_skipped, 1.0)} if state.num_skipped else {})
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
            writer.close(settles=is_good)
    processes.wait()


def _step(
    config: TrainConfig,
    stage: Stage,
    state: TrainState,
    processes: Processes,
    log: RunLog,
    synced: MicroBatchSync,
) -> None:
    """One optimizer step; one whose loss or gradient is not finite is in no mean of the log."""
    watch, metrics = StepWatch(), list[StepMetrics]()
    waited = time.perf_counter()
    for number, micro_batch in enumerate(synced(stage.batches(state.step))):
        log.waited(time.perf_counter() - waited)
        # of dropout inside the models; here, because opening the data draws from the same generator
        torch.manual_seed(hash((config.seed, state.step, processes.rank, number)))
        result = stage.loss(micro_batch.batch)
        (result.loss if micro_batch.is_counted else 0 * result.loss).backward()
        if micro_batch.is_counted:
            watch.add(result, micro_batch.batch)
            metrics.append(result.metrics)
        log.computed(result.flops)
        waited = time.perf_counter()
    if hasattr(stage, "check_step"):
        stage.check_step()
    norms = state.update(watch)
    if norms is not None:
        for one in (*metrics, {name: (value, 1.0) for name, value in norms.items()}):
            log.add(one)
    log.add(stage.take_metrics() if hasattr(stage, "take_metrics") else {})


def _writer(
    config: TrainConfig, stage: Stage, processes: Processes, output_dir: Path
) -> CheckpointWriter | None:
    """Every process writes what it alone holds; what all of them hold, the main one."""
    if is_sharded(stage.modules):
        return CheckpointWriter(output_dir, config.keep, processes)
    return CheckpointWriter(output_dir, config.keep) if processes.is_main else None
