"""What is not finite is never saved: the run stops at its step, or leaves the step out and counts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deepgen.models.errors import NotFiniteError
from deepgen.training.checkpoint_folders import checkpoints, latest_checkpoint
from deepgen.training.checkpoints import read_checkpoint_folder
from deepgen.training.finite import StepWatch, not_finite
from deepgen.training.loop import train
from deepgen.training.optim import OptimConfig
from deepgen.training.parallel import Processes
from deepgen.training.state import TrainState
from toy_run import ToyConfig, ToyStage

NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def nothing_before_a_loss() -> Iterator[None]:
    yield
    ToyStage.before_loss = None


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir() if path.name.startswith(("step", ".step")))


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


# --- a step


def state_with(config: ToyConfig, max_skipped: int = 0) -> tuple[ToyStage, TrainState]:
    stage = config.build(Processes("cpu"))
    return stage, TrainState(stage.modules, config.optim, 10, 0.9, None, max_skipped)


def computed(stage: ToyStage, step: int = 0) -> StepWatch:
    watch = StepWatch()
    for batch in stage.batches(step):
        result = stage.loss(batch)
        result.loss.backward()
        watch.add(result, batch)
    return watch


def test_a_loss_that_is_nan_changes_no_weight_and_is_named_with_its_micro_batch() -> None:
    stage, state = state_with(ToyConfig(factors={1: NAN}))
    before = {name: p.detach().clone() for name, p in state.parameters.items()}
    with pytest.raises(
        NotFiniteError, match=r"step 1 is not finite: loss of micro-batch 1 is nan; loss of mi"
    ):
        state.update(computed(stage))
    assert all(torch.equal(p, before[name]) for name, p in state.parameters.items())
    assert all(torch.equal(average, before[name]) for name, average in state.ema.items())


def test_a_gradient_that_is_not_finite_beside_a_finite_loss_is_named() -> None:
    stage, state = state_with(ToyConfig())
    watch = computed(stage)
    state.parameters["other.bias"].grad[0] = INF  # type: ignore[index]
    with pytest.raises(
        NotFiniteError, match=r"step 1 is not finite: NaN or infinity in the gradient of other"
    ):
        state.update(watch)


def test_a_gradient_whose_norm_overflows_is_no_step_of_nothing() -> None:
    """Clipping by an infinite norm would silently multiply the gradient by zero."""
    stage, state = state_with(ToyConfig())
    watch = computed(stage)
    state.parameters["part.weight"].grad.fill_(3e30)  # type: ignore[union-attr]
    with pytest.raises(NotFiniteError, match="norm of the gradient is too large for a float32"):
        state.update(watch)


def test_what_came_in_and_broken_weights_are_named_before_the_loss_they_spoil() -> None:
    stage, state = state_with(ToyConfig())
    watch = StepWatch()
    result = stage.loss(torch.full((2, 3), NAN))
    result.loss.backward()
    watch.add(result, None)
    with pytest.raises(NotFiniteError, match="finite: rows of micro-batch 1 is nan; loss of") as error:
        state.update(watch)
    assert error.value.weights_step is None
    with torch.no_grad():
        state.parameters["part.bias"].fill_(NAN)
    with pytest.raises(
        NotFiniteError, match=r"finite: NaN or infinity in weights of part\.bias; loss of mic"
    ):
        state.update(computed(stage))


def test_an_update_that_makes_weights_infinite_stops_at_its_step() -> None:
    config = ToyConfig(optim=replace(ToyConfig().optim, lr=3e38, weight_decay=1e30))
    stage, state = state_with(config)
    with pytest.raises(NotFiniteError, match="the update of step 1 made weights NaN or infinite: weights of"):
        state.update(computed(stage))


def test_averages_and_moments_that_are_not_finite_are_not_saved() -> None:
    stage, state = state_with(ToyConfig())
    state.update(computed(stage))
    assert state.snapshot().is_finite
    state.ema["part.bias"].fill_(INF)
    with pytest.raises(
        NotFiniteError, match=r"step 1 is not saved, NaN or infinity in averages of part\.bias"
    ):
        state.snapshot()


def test_tensors_are_named_in_every_number_format_and_large_finite_ones_are_not() -> None:
    tensors = {
        "whole": torch.tensor([1, 2]),
        "large": torch.full((4,), 3e38),
        "half": torch.tensor([1.0, INF], dtype=torch.bfloat16),
        "nan": torch.tensor(NAN, dtype=torch.float64),
    }
    assert not_finite(tensors) == ["half", "nan"]
    assert not_finite({}) == []


# --- a run


def test_a_run_that_diverges_stops_within_one_step_and_resumes_with_a_smaller_rate(tmp_path: Path) -> None:
    config = ToyConfig(keep=1, save_every=1)
    train(replace(config, num_steps=4), tmp_path)
    wild = replace(config, num_steps=40, optim=replace(config.optim, lr=1e25))
    with pytest.raises(NotFiniteError, match=r"step 6 is not finite") as error:
        train(wild, tmp_path, resume=True)
    # Weights of step 5 are finite, were saved, and give no finite loss: the older one stayed for that.
    assert "Set aside, because their weights give no finite loss: step-00000005.diverged" in str(error.value)
    assert f"{tmp_path / 'step-00000004'} is the last good checkpoint; go on with --resume and" in str(
        error.value
    )
    assert names(tmp_path) == ["step-00000004", "step-00000005.diverged"]
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5]  # no line of a mean with NaN
    tame = replace(config, num_steps=8, optim=replace(config.optim, lr=1e-3))
    state = train(tame, tmp_path, resume=True)
    assert state.step == 8
    assert all(bool(p.isfinite().all()) for p in state.parameters.values())
    assert names(tmp_path) == ["step-00000005.diverged", "step-00000008"]


def test_a_run_that_is_nan_at_once_says_that_nothing_was_saved(tmp_path: Path) -> None:
    with pytest.raises(NotFiniteError, match="Nothing was saved yet; start again with a smaller rate"):
        train(ToyConfig(factors={1: NAN}), tmp_path)
    assert checkpoints(tmp_path) == []


def test_steps_may_be_left_out_and_are_counted_over_restarts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = ToyConfig(num_steps=6, factors={3: NAN, 6: INF, 9: NAN}, max_skipped_steps=2)
    state = train(config, tmp_path)
    assert (state.step, state.num_skipped, state.weights_step) == (6, 2, 5)
    said = [record.getMessage() for record in caplog.records if "is left out" in record.getMessage()]
    assert said[0].startswith("step 3 is left out, 1 of 2 that may be: loss of micro-batch 1 is nan")
    assert len(said) == 2
    by_step = {line["step"]: line for line in lines(tmp_path)}
    assert "loss" not in by_step[3]
    assert "loss" in by_step[4]
    assert by_step[3]["skipped_steps"] == 1
    assert by_step[6]["skipped_steps"] == 2
    assert read_checkpoint_folder(latest_checkpoint(tmp_path)).num_skipped == 2
    with pytest.raises(NotFiniteError, match=r"step 9 is not finite \(2 steps were left out before\)"):
        train(replace(config, num_steps=12), tmp_path, resume=True)


def test_a_step_that_is_left_out_is_as_if_it_had_no_samples(tmp_path: Path) -> None:
    """Weights, averages and moments are those of the step before, and the samples go on."""
    config = ToyConfig(num_steps=3, factors={3: NAN}, max_skipped_steps=1, save_every=1)
    train(config, tmp_path)
    two, three = (read_checkpoint_folder(folder) for folder in checkpoints(tmp_path)[-2:])
    assert (two.step, three.step) == (2, 3)
    for part in ("model", "ema", "optimizer"):
        for name, value in getattr(two, part).items():
            assert torch.equal(value, getattr(three, part)[name]), name


def test_averages_spoilt_in_memory_stop_the_save_and_leave_the_last_checkpoint(tmp_path: Path) -> None:
    def spoil(step: int) -> None:
        if step == 4:
            for value in made.ema.values():
                value.fill_(NAN)

    made: Any = None
    real = TrainState.__init__

    def remember(self: TrainState, *given: Any, **named: Any) -> None:
        nonlocal made
        real(self, *given, **named)
        made = self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainState, "__init__", remember)
        ToyStage.before_loss = spoil
        with pytest.raises(NotFiniteError, match="step 4 is not saved, NaN or infinity in averages of part"):
            train(ToyConfig(), tmp_path)
    assert names(tmp_path) == ["step-00000002"]


def test_fewer_steps_to_leave_out_than_none_are_refused() -> None:
    with pytest.raises(ValueError, match="max_skipped_steps must be at least 0"):
        ToyConfig(max_skipped_steps=-1)


def test_looking_costs_no_second_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """One reading of all scalars before the update, and one of the weights' norm after it."""
    stage, state = state_with(ToyConfig(optim=OptimConfig(muon_lr=None)))
    watch, waits = computed(stage), []
    for name in ("tolist", "item", "__float__", "__bool__"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda self, *given, of=name, real=real: (waits.append(of), real(self, *given))[1],
        )
    state.update(watch)
    ours = [wait for wait in waits if wait in ("tolist", "__float__")]
    assert ours == ["tolist", "__float__"]


@pytest.mark.slow
def test_what_one_process_finds_stops_or_skips_the_step_of_all(tmp_path: Path) -> None:
    worker = Path(__file__).parents[1] / "toy_worker.py"
    for skips in (0, 1):
        run = tmp_path / str(skips)
        launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        path = os.pathsep.join([str(worker.parent), *sys.path])
        done = subprocess.run(
            [sys.executable, "-m", *launch, str(worker), str(run), "1", str(skips)],
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        for rank in range(2):
            if skips:
                assert f"rank {rank} done at 5, left out 1" in done.stdout
            else:
                assert f"rank {rank} stopped: step 3 is not finite: " in done.stdout
        if not skips:
            assert done.stdout.count("process 1: rows of micro-batch 1 is nan") == 2
            assert done.stdout.count("step-00000002 is the last good checkpoint") == 2
        last = "step-00000005" if skips else "step-00000002"
        assert latest_checkpoint(run).name == last
