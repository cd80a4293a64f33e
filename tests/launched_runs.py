"""Runs in processes of their own, one or several, and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from deepgen.training.checkpoint_folders import latest_checkpoint
from deepgen.training.checkpoints import read_checkpoint_folder

SETTINGS = {
    "global_batch_size": "6",
    "micro_batch_size": "2",
    "num_workers": "0",
    "device": "cpu",
    "model": "shapes",
    "new_connector": "false",
    "optim.warmup_steps": "2",
    "optim.decay_share": "0",  # the schedule of a part is not that of the whole
    "log_every": "1",
    "save_every": "1",
}


def command(
    mixture: Path,
    output: Path,
    *,
    steps: int,
    processes: int,
    resume: bool = False,
    recipe: str = "alignment",
    changes: Mapping[str, str] | None = None,
) -> list[str]:
    settings = {**SETTINGS, "data": str(mixture), "num_steps": str(steps), **(changes or {})}
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return [*launch, "deepgen", "train", recipe, "-o", str(output), *options, *(["--resume"] * resume)]


def start(*arguments, **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    return subprocess.Popen(
        command(*arguments, **options),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(*arguments, **options) -> None:
    process = start(*arguments, **options)
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output[-3000:]


def kill(process: subprocess.Popen) -> None:
    """The process and all it started, at once; torchrun's workers have sessions of their own."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(family, timeout=30)


def weights(output: Path) -> dict[str, torch.Tensor]:
    snapshot = read_checkpoint_folder(latest_checkpoint(output))
    return {
        f"{part}/{name}": tensor
        for part in ("model", "ema", "optimizer")
        for name, tensor in getattr(snapshot, part).items()
    }


def losses(output: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def assert_equal(ours: Path, theirs: Path) -> None:
    one, other = weights(ours), weights(theirs)
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f"{len(different)} of {len(one)} differ, such as {different[:3]}"


def several_processes_learn_what_one_learns(mixture: Path, folder: Path, recipe: str, changes: dict) -> None:
    """Four steps on one process and on two leave the same weights, up to the order of sums."""
    for count in (1, 2):
        finish(mixture, folder / str(count), steps=4, processes=count, recipe=recipe, changes=changes)
    alone, together = weights(folder / "1"), weights(folder / "2")
    assert alone.keys() == together.keys()
    for name in (name for name in alone if name.startswith("model/")):
        torch.testing.assert_close(together[name], alone[name], atol=1e-6, rtol=1e-4, msg=name)
