"""Accidents of a run: a disk that fills, a clock that goes back, Ctrl-C twice."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deepgen.training import interrupts, run_folder
from deepgen.training.checkpoint_folders import checkpoints, whole_checkpoint
from deepgen.training.checkpoints import CheckpointWriter, read_checkpoint_folder
from deepgen.training.loop import train
from deepgen.training.state import Snapshot
from toy_run import ToyConfig, ToyStage


@pytest.fixture(autouse=True)
def nothing_before_a_loss() -> Iterator[None]:
    yield
    ToyStage.before_loss = None


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The system refuses to write more, as on a full disk, in the middle of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def same(one: Snapshot, other: Snapshot) -> bool:
    return all(
        torch.equal(value, getattr(other, part)[name])
        for part in ("model", "ema", "optimizer")
        for name, value in getattr(one, part).items()
    )


# --- a disk that fills


@pytest.mark.parametrize("size", [50, 2_000, 9_000, 20_000])  # in a header, in the averages, in the moments
def test_a_disk_that_fills_in_any_file_leaves_no_debris_and_the_last_checkpoint(
    size: int, tmp_path: Path
) -> None:
    small = Snapshot(1, {"a": torch.ones(4)}, {}, {})
    writer = CheckpointWriter(tmp_path)
    writer.save(small)
    writer.wait()
    large = Snapshot(
        2,
        {"a": torch.ones(400)},
        {"a": torch.ones(2_000)},
        {"a/exp_avg": torch.ones(8_000)},
    )
    with no_file_larger_than(size):
        writer.save(large)
        with pytest.raises(
            OSError, match=r"cannot write the checkpoint .*step-00000002: .*[Ff]ile too large.*untouched"
        ):
            writer.close()
    assert names(tmp_path) == ["step-00000001"]
    assert whole_checkpoint(tmp_path).name == "step-00000001"


@pytest.mark.parametrize("place", ["write_sums", "_flush"])
def test_a_disk_that_is_full_at_the_last_file_leaves_no_debris_either(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepgen.training import checkpoints as module

    def fail(*given: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = CheckpointWriter(tmp_path)
    writer.save(Snapshot(1, {"a": torch.ones(4)}, {}, {}))
    writer.wait()
    monkeypatch.setattr(module, place, fail)
    writer.save(Snapshot(2, {"a": torch.ones(4)}, {}, {}))
    with pytest.raises(
        OSError, match="step-00000002: No space left on device; older checkpoints are untouched"
    ):
        writer.close()
    assert names(tmp_path) == ["step-00000001"]


def test_a_run_whose_disk_fills_stops_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    train(ToyConfig(num_steps=8), tmp_path / "straight")
    run = tmp_path / "run"
    train(ToyConfig(num_steps=2), run)
    with no_file_larger_than(300), pytest.raises(OSError, match="cannot write"):
        train(ToyConfig(num_steps=8), run, resume=True)
    assert [name for name in names(run) if "step" in name] == ["step-00000002"]
    train(ToyConfig(num_steps=8), run, resume=True)
    assert same(*(read_checkpoint_folder(whole_checkpoint(path)) for path in (run, tmp_path / "straight")))


def test_a_record_that_cannot_be_written_stays_what_it_was(tmp_path: Path) -> None:
    run_folder._write(tmp_path, {"a": 1})
    with (
        no_file_larger_than(10),
        pytest.raises(OSError, match=r"cannot write .*config\.json: File too large"),
    ):
        run_folder._write(tmp_path, {"a": "long" * 100})
    assert names(tmp_path) == ["config.json"]
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": 1}


def test_a_log_that_cannot_be_written_says_which_file(tmp_path: Path) -> None:
    config = ToyConfig(num_steps=400, save_every=400)
    with (
        no_file_larger_than(8_000),  # more than config.json has, less than the log
        pytest.raises(OSError, match=r"cannot write .*log\.jsonl: File too large"),
    ):
        train(config, tmp_path)


# --- a clock that goes back


def test_a_clock_that_goes_back_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are in the order of their steps, whatever their dates, and no wall clock is read."""
    now = 2e9

    def backwards() -> float:
        nonlocal now
        now -= 3600
        return now

    monkeypatch.setattr(time, "time", backwards)
    config = ToyConfig(num_steps=4)
    train(config, tmp_path)
    for folder, date in zip(checkpoints(tmp_path), (2e9, 1e9), strict=True):
        os.utime(folder, (date, date))
    assert train(replace(config, num_steps=6), tmp_path, resume=True).step == 6
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line["steps_per_second"] > 0 for line in lines)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-00000004", "step-00000006"]


# --- Ctrl-C


def press(*steps: int) -> None:
    def on_step(step: int) -> None:
        if step in pressed:
            pressed.remove(step)
            os.kill(os.getpid(), signal.SIGINT)

    pressed = list(steps)
    ToyStage.before_loss = on_step


def test_one_ctrl_c_finishes_the_step_and_saves(tmp_path: Path) -> None:
    press(3)
    assert train(ToyConfig(save_every=100), tmp_path).step == 3
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-00000003"]


def test_a_second_ctrl_c_stops_at_once_with_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "_ONE_PRESS_S", -1.0)
    press(3, 3)  # before each of the two micro-batches
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(ToyConfig(num_steps=6), tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert [name for name in names(tmp_path) if "step" in name] == ["step-00000002"]
    ToyStage.before_loss = None
    train(ToyConfig(num_steps=6), tmp_path, resume=True)
    train(ToyConfig(num_steps=6), tmp_path / "straight")
    assert same(
        *(read_checkpoint_folder(whole_checkpoint(path)) for path in (tmp_path, tmp_path / "straight"))
    )


def test_one_press_that_arrives_twice_is_one(tmp_path: Path) -> None:
    press(3, 3)
    assert train(ToyConfig(save_every=100), tmp_path).step == 3
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-00000003"]


def test_a_scheduler_that_sends_sigterm_again_and_again_only_asks(tmp_path: Path) -> None:
    ToyStage.before_loss = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 3 else None
    assert train(ToyConfig(save_every=100), tmp_path).step == 3


# --- --resume auto


def test_auto_takes_the_newest_whole_checkpoint_and_sets_the_damaged_one_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = ToyConfig(num_steps=4)
    train(config, tmp_path / "straight")
    run = tmp_path / "run"
    train(config, run)
    file = run / "step-00000004" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    with pytest.raises(
        ValueError, match=r"optimizer\.safetensors was changed.*step-00000002 is whole: go on from it"
    ):
        train(config, run, resume=True)
    assert train(config, run, resume="auto").step == 4
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "step-00000002; damaged and set aside: step-00000004.damaged" in said
    assert [name for name in names(run) if "step" in name] == [
        *("step-00000002", "step-00000004", "step-00000004.damaged")
    ]
    assert same(*(read_checkpoint_folder(whole_checkpoint(path)) for path in (run, tmp_path / "straight")))


def test_auto_begins_where_there_is_nothing_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train(ToyConfig(num_steps=2), tmp_path / "run", resume="auto").step == 2
    assert "holds no checkpoint: the run begins at its first step" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"no step-\* checkpoint in .*; start without --resume"):
        train(ToyConfig(num_steps=2), tmp_path / "other", resume=True)


# --- SIGKILL


@pytest.mark.slow
def test_a_run_killed_at_twenty_random_moments_ends_bit_by_bit_like_an_unbroken_one(tmp_path: Path) -> None:
    """With averages on. The same with the whole model is in test_processes.py."""
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(tests / "toy_kills.py"), str(tmp_path), "20", "0"],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "killed 20 times" in done.stdout
    broken, unbroken = (whole_checkpoint(tmp_path / name) for name in ("broken", "unbroken"))
    assert broken.name == unbroken.name == "step-00000060"
    one, other = read_checkpoint_folder(broken), read_checkpoint_folder(unbroken)
    assert one.ema
    assert same(one, other)
    assert not list(tmp_path.glob("broken/.step-*"))
