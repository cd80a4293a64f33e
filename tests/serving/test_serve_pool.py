"""Worker processes: a death costs nobody his picture, and whoever causes two of them is told so."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from deepgen.checkpoints.tensors import CheckpointError
from deepgen.cli.loading import load_pipeline
from deepgen.cli.options import ModelOptions
from deepgen.serving.engine import Engine, EngineConfig
from deepgen.serving.jobs import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    GenerationRequest,
    ImageDone,
    Job,
    JobDone,
    NoWorker,
    Preview,
    Progress,
    Queued,
    QueueFull,
    WorkerFailed,
)
from deepgen.serving.pool import Pool
from deepgen.serving.pool_jobs import runs

LOAD = partial(load_pipeline, ModelOptions(model="tiny", device="cpu"))
LONG = 80  # steps: seconds of work, so that there is time to kill


def test_neighbours_stay_together_up_to_a_length() -> None:
    assert runs([0, 1, 2, 3, 4], 2) == [[0, 1], [2, 3], [4]]
    assert runs([0, 2, 3, 7], 9) == [[0], [2, 3], [7]]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(LOAD, EngineConfig(max_batch=1, max_running=4, max_waiting=6), num_workers=2) as pool:
        yield pool


@pytest.fixture
def ready(pool: Pool) -> Pool:
    """The pool with both its workers up."""
    until(lambda: all(worker.is_ready for worker in pool.status().workers))
    return pool


@pytest.fixture(scope="module")
def alone() -> Iterator[Engine]:
    """An engine in this process, which draws one picture at a time."""
    pipe = LOAD()
    pipe.set_progress_bar_config(disable=True)
    with Engine(pipe, EngineConfig(max_batch=1)) as engine:
        yield engine


def drawn_alone(engine: Engine, prompt: str, seed: int, num_steps: int | None = None) -> Image.Image:
    request = GenerationRequest(prompt=prompt, seed=seed, num_inference_steps=num_steps)
    return engine.submit(request).result(120)[0].image


def until(is_so: object, seconds: float = 120) -> None:
    started = time.monotonic()
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() - started < seconds
        time.sleep(0.02)


def wait_for_progress(job: Job) -> None:
    for event in job.events(60):
        if isinstance(event, Progress) and event.step > 0:
            return


def workers_of(pool: Pool) -> list[int]:
    """Process ids of the workers that draw."""
    return [worker.process.pid for worker in pool._workers if worker.worker_jobs]


def is_equal(one: Image.Image, other: Image.Image) -> bool:
    return bool((np.asarray(one) == np.asarray(other)).all())


@pytest.mark.slow
def test_pictures_come_from_both_workers_with_the_seeds_they_have_alone(ready: Pool, alone: Engine) -> None:
    job = ready.submit(
        GenerationRequest(prompt="a red circle", seed=5, num_images=3, num_inference_steps=4, num_previews=1)
    )
    events = list(job.events(60))
    assert sum(isinstance(event, Queued) for event in events) == 1
    assert sorted(e.index for e in events if isinstance(e, Preview)) == [0, 1, 2]
    assert events[-1] == JobDone(None)
    drawn = job.result(0)
    assert [image.seed for image in drawn] == [5, 6, 7]
    for image in drawn:
        assert is_equal(image.image, drawn_alone(alone, "a red circle", image.seed, 4))
    until(lambda: all(worker.memory > 10**8 for worker in ready.status().workers), 10)


@pytest.mark.slow
def test_a_killed_worker_costs_nobody_his_picture(ready: Pool, alone: Engine) -> None:
    request = GenerationRequest(prompt="a blue star", seed=1, num_images=3, num_inference_steps=LONG)
    job, other = ready.submit(request), ready.submit(GenerationRequest(prompt="a cross", seed=9))
    wait_for_progress(job)
    os.kill(workers_of(ready)[0], signal.SIGKILL)
    drawn = job.result(120)
    assert [image.seed for image in drawn] == [1, 2, 3]
    for image in drawn:
        assert is_equal(image.image, drawn_alone(alone, "a blue star", image.seed, LONG))
    assert sum(isinstance(event, ImageDone) for event in job.events(5)) == 3  # none is told twice
    assert is_equal(other.result(60)[0].image, drawn_alone(alone, "a cross", 9))
    until(lambda: max(worker.num_starts for worker in ready.status().workers) >= 2)


@pytest.mark.slow
def test_a_request_that_was_drawn_by_two_dying_workers_ends_with_an_id(
    ready: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    job = ready.submit(GenerationRequest(prompt="a", num_inference_steps=LONG))
    for _ in range(2):
        until(lambda: workers_of(ready))
        wait_for_progress(job)
        os.kill(workers_of(ready)[0], signal.SIGKILL)
        until(lambda: job.is_ended or workers_of(ready))
    with pytest.raises(WorkerFailed) as failed:
        job.result(30)
    assert failed.value.error_id in caplog.text
    until(lambda: ready.status().is_accepting)
    ready.submit(GenerationRequest(prompt="a", num_inference_steps=1)).result(60)


@pytest.mark.slow
def test_accepted_requests_outlive_all_workers_and_new_ones_are_told_to_wait(ready: Pool) -> None:
    jobs = [
        ready.submit(GenerationRequest(prompt="a", num_inference_steps=20, seed=seed)) for seed in range(6)
    ]
    for worker in list(ready._workers):
        os.kill(worker.process.pid, signal.SIGKILL)
    until(lambda: not ready.status().is_accepting)
    assert ready.status().is_alive
    with pytest.raises((NoWorker, QueueFull)):
        ready.submit(GenerationRequest(prompt="a"))
    assert [job.result(120)[0].seed for job in jobs] == list(range(6))


@pytest.mark.slow
def test_cancelled_and_late_requests_leave_the_worker(ready: Pool) -> None:
    job = ready.submit(GenerationRequest(prompt="a", num_inference_steps=LONG))
    late = ready.submit(GenerationRequest(prompt="a", num_inference_steps=LONG, timeout_s=0.5))
    wait_for_progress(job)
    job.cancel()
    with pytest.raises(Cancelled):
        job.result(10)
    with pytest.raises(DeadlineExceeded):
        late.result(10)
    until(lambda: not workers_of(ready), 10)
    assert (ready.status().running, ready.status().waiting) == (0, 0)


@pytest.mark.slow
def test_what_a_worker_cannot_draw_is_refused_with_the_reason(ready: Pool) -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        ready.submit(GenerationRequest(prompt="a", height=65, width=64))
    with pytest.raises(ValueError, match="num_images"):
        ready.submit(GenerationRequest(prompt="a", num_images=7))
    assert (ready.status().running, ready.status().waiting) == (0, 0)


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_told() -> None:
    load = partial(load_pipeline, ModelOptions(model="/nowhere/at/all", device="cpu"))
    with pytest.raises(ValueError, match="nowhere"):
        Pool(load)


@pytest.mark.slow
def test_an_adapter_that_does_not_fit_ends_the_start_with_its_own_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {f"blocks.0.to_q.lora_{side}.weight": torch.ones(2, 2) + (side == "B") for side in "AB"}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"LoRA other: .* 2 of its 2 keys have no place"):
        Pool(LOAD, EngineConfig(loras={"other": str(tmp_path / "other.safetensors")}))
    assert "could not start" not in caplog.text  # the error is told once


@pytest.mark.slow
def test_closing_ends_what_is_not_done(pool: Pool) -> None:  # the last: it closes the pool
    until(lambda: pool.status().is_accepting)
    job = pool.submit(GenerationRequest(prompt="a", num_inference_steps=LONG))
    assert not pool.drain(0.01)
    with pytest.raises(Draining):
        pool.submit(GenerationRequest(prompt="a"))
    pool.close()
    with pytest.raises(Draining):
        job.result(5)
    assert not any(worker.process.is_alive() for worker in pool._workers)
