"""Several processes, and processes that are killed: the run that comes out is the one that was asked for."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
import torch

from deepgen.training.checkpoint_folders import checkpoints
from launched_runs import assert_equal, finish, kill, losses, start, weights


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
@pytest.mark.parametrize(("processes", "kills"), [(1, 20), (2, 8)])
def test_a_run_killed_at_random_moments_ends_bit_by_bit_like_an_unbroken_one(
    processes: int, kills: int, mixture: Path, tmp_path: Path
) -> None:
    steps, averages = 100, {"ema_decay": "0.9"}
    finish(mixture, tmp_path / "unbroken", steps=steps, processes=processes, resume=False, changes=averages)
    rng, broken, killed = random.Random(processes), tmp_path / "broken", 0
    while killed < kills:
        found = checkpoints(broken)
        process = start(
            mixture, broken, steps=steps, processes=processes, resume=bool(found), changes=averages
        )
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
    finish(mixture, broken, steps=steps, processes=processes, resume=True, changes=averages)
    assert any(name.startswith("ema/") for name in weights(broken))
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
