"""The one training loop. It does not know what it trains: a stage brings the batches and one step."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from deepgen.train.optim import OptimConfig
from deepgen.train.state import TrainState, latest_checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every stage has: length, seed, optimizer, and how often something is written."""

    num_steps: int = 1000
    seed: int = 0
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema_decay: float = 0.998
    log_every: int = 50
    save_every: int = 200
    num_threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        if min(self.num_steps, self.log_every, self.save_every) < 1:
            raise ValueError("num_steps, log_every and save_every must be at least 1")

    def build(self) -> Stage:
        """The stage this config describes."""
        raise NotImplementedError


class Stage(Protocol):
    """What the loop needs: the modules to train, a batch of a step, and its loss with metrics."""

    modules: nn.Module

    def batch(self, rng: np.random.Generator, step: int) -> Any:
        """The examples of a step, a pure function of the generator and the step."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The scalar to minimise and what to log."""
        ...


def train(config: TrainConfig, output_dir: Path, *, resume: bool = False) -> TrainState:
    """Run a stage to its last step, or to an interrupt, after which the state is saved.

    Args:
        config: the recipe.
        output_dir: gets config.json, log.jsonl and checkpoints.
        resume: continue from the newest checkpoint there.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    torch.manual_seed(config.seed)
    stage = config.build()
    state = TrainState(stage.modules, config.optim, config.num_steps, config.ema_decay)
    if resume:
        state.load(latest_checkpoint(output_dir))
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / "config.json").write_text(json.dumps(asdict(config), indent=1, default=str) + "\n")

    metrics: dict[str, list[float]] = defaultdict(list)
    start, first = time.perf_counter(), state.step
    with _interruptible() as stopped, (output_dir / "log.jsonl").open("a") as log:
        while state.step < config.num_steps and not stopped:
            batch = stage.batch(np.random.default_rng((config.seed, state.step)), state.step)
            loss, measured = stage.loss(batch)
            loss.backward()
            for name, value in {**measured, **state.update()}.items():
                metrics[name].append(value)
            if state.step % config.log_every == 0 or state.step == config.num_steps:
                speed = (state.step - first) / (time.perf_counter() - start)
                means = {name: round(float(np.mean(values)), 5) for name, values in metrics.items()}
                log.write(
                    json.dumps({"step": state.step, **means, "steps_per_second": round(speed, 3)}) + "\n"
                )
                log.flush()
                left = (config.num_steps - state.step) / speed / 60
                logger.info("step %d of %d, %.1f min left: %s", state.step, config.num_steps, left, means)
                metrics.clear()
            if state.step % config.save_every == 0:
                state.save(output_dir)
    state.save(output_dir)
    return state


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that is empty until the first SIGINT, so that a step is never cut in half."""
    stopped: list[int] = []
    try:
        previous = signal.signal(signal.SIGINT, lambda number, _: stopped.append(number))
    except ValueError:  # not the main thread, where no signal arrives
        yield stopped
        return
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, previous)
