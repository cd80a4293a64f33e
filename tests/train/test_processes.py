"""Several processes, and processes that are killed: the run that comes out is the one that was asked for."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from deepgen.train.checkpoints import checkpoints, latest_checkpoint

SETTINGS = {
    "global_batch_size": "6",
    "micro_batch_size": "2",
    "num_workers": "0",
    "device": "cpu",
    "model": "tiny",
    "new_connector": "false",
    "optim.warmup_steps": "2",
    "optim.decay_share": "0",  # the schedule of a part is not that of the whole
    "log_every": "1",
    "save_every": "1",
}


def command(mixture: Path, output: Path, *, steps: int, processes: int, resume: bool) -> list[str]:
    settings = {**SETTINGS, "data": str(mixture), "num_steps": str(steps)}
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return [*launch, "deepgen", "train", "alignment", "-o", str(output), *options, *(["--resume"] * resume)]


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
    folder = latest_checkpoint(output)
    return {
        f"{part}/{name}": tensor
        for part in ("model", "ema", "optimizer")
        for name, tensor in load_file(folder / f"{part}.safetensors").items()
    }


def losses(output: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def assert_equal(ours: Path, theirs: Path) -> None:
    one, other = weights(ours), weights(theirs)
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f"{len(different)} of {len(one)} differ, such as {different[:3]}"


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1), (2, 2)])
def test_a_run_resumed_on_other_processes_goes_on_with_the_same_samples(
    first: int, second: int, mixture: Path, tmp_path: Path
) -> None:
    finish(mixture, tmp_path / "straight", steps=4, processes=1, resume=False)
    finish(mixture, tmp_path / "moved", steps=2, processes=first, resume=False)
    finish(mixture, tmp_path / "moved", steps=4, processes=second, resume=True)
    straight, moved = losses(tmp_path / "straight"), losses(tmp_path / "moved")
    assert straight.keys() == moved.keys() == {1, 2, 3, 4}
    for step, loss in straight.items():
        assert moved[step] == pytest.approx(loss, abs=1e-5)
    one, other = weights(tmp_path / "straight"), weights(tmp_path / "moved")
    for name in (name for name in one if name.startswith("model/")):
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(1, 12), (2, 8)])
def test_a_run_killed_at_random_moments_ends_bit_by_bit_like_an_unbroken_one(
    processes: int, kills: int, mixture: Path, tmp_path: Path
) -> None:
    steps = 100
    finish(mixture, tmp_path / "unbroken", steps=steps, processes=processes, resume=False)
    rng, broken, killed = random.Random(processes), tmp_path / "broken", 0
    while killed < kills:
        found = checkpoints(broken)
        process = start(mixture, broken, steps=steps, processes=processes, resume=bool(found))
        # Until it has written something, so that each life gets further; then a moment later, mid-step or
        # mid-save.
        deadline = time.monotonic() + 120
        while checkpoints(broken)[-1:] == found[-1:] and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        if process.poll() is None:
            kill(process)
            killed += 1
        process.wait()
        if checkpoints(broken)[-1].name == f"step-{steps:08d}":
            break
    assert killed == kills, f"only {killed} kills before the run was done"
    finish(mixture, broken, steps=steps, processes=processes, resume=True)
    assert_equal(tmp_path / "unbroken", broken)


@pytest.mark.slow
def test_two_runs_in_one_folder_and_a_dead_process_are_clear_errors(mixture: Path, tmp_path: Path) -> None:
    first = start(mixture, tmp_path / "run", steps=400, processes=1, resume=False)
    while not checkpoints(tmp_path / "run"):
        assert first.poll() is None
        time.sleep(0.05)
    second = start(mixture, tmp_path / "run", steps=400, processes=1, resume=True)
    output = second.communicate(timeout=120)[0]
    assert second.returncode == 2
    assert "another process is training in" in output
    kill(first)
