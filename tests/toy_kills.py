"""Train the toy in a child that is killed at random moments: `toy_kills.py OUTPUT KILLS SEED`.

Children are forks of a process that has everything imported, so that a life costs milliseconds.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from deepgen.training.checkpoint_folders import checkpoints, step_folders
from deepgen.training.loop import train
from toy_run import ToyConfig

STEPS = 60


def live(config: ToyConfig, run: Path) -> int:
    """A child that goes on with the run; its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(config, run, resume="auto")
            code = 0
        finally:
            os._exit(code)
    return child


def main() -> None:
    output, kills, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    config = ToyConfig(num_steps=STEPS, save_every=1, log_every=5, keep=2)
    assert os.waitpid(live(config, output / "unbroken"), 0)[1] == 0
    run, moments = output / "broken", []
    for _ in range(kills):
        before = step_folders(run)[-1:]
        child = live(config, run)
        while step_folders(run)[-1:] == before and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.02))  # in a step, in a save, or while an old checkpoint is removed
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        moments.append(f"{checkpoints(run)[-1].name}{'+' if list(run.glob('.step-*')) else ''}")
    assert os.waitpid(live(config, run), 0)[1] == 0
    print(f"killed {len(moments)} times: {' '.join(moments)}")


if __name__ == "__main__":
    main()
