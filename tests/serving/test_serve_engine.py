"""The engine: what it draws is what the pipeline draws, in whatever company, and nobody waits in vain."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.adapters import read_loras
from deepgen.serving.engine import Engine, EngineConfig
from deepgen.serving.fair_queue import FairQueue
from deepgen.serving.jobs import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    GenerationRequest,
    ImageDone,
    JobDone,
    OutOfMemory,
    Preview,
    Progress,
    Queued,
    QueueFull,
    WorkerFailed,
)
from deepgen.serving.sampler import LatentPreview, Sampler
from random_lora import write_lora

# Matrix products of another batch size round differently: 1e-5 in latents of the random model, measured.
LATENTS = 1e-4
LEVELS = 1  # of 255, where such a difference falls on the edge between two of them

Make = Callable[..., Engine]


@pytest.fixture
def make_engine(pipe: DeepGenPipeline) -> Iterator[Make]:
    engines: list[Engine] = []

    def make(**config: Any) -> Engine:
        engines.append(Engine(pipe, EngineConfig(**config)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


class Gate:
    """Holds the engine before a step, and counts the samples of each."""

    def __init__(self, engine: Engine) -> None:
        self.batches: list[int] = []
        self._step, self._go, self._reached = (
            engine.sampler.step,
            threading.Semaphore(0),
            threading.Semaphore(0),
        )
        engine.sampler.step = self  # type: ignore[method-assign]

    def __call__(self, samples: list[Any], *exact_batch: int) -> None:
        self._reached.release()
        assert self._go.acquire(timeout=20)
        self.batches.append(len(samples))
        self._step(samples, *exact_batch)

    def wait(self) -> None:
        """Until the engine stands before a step."""
        assert self._reached.acquire(timeout=20)

    def open(self, steps: int = 1000) -> None:
        """Let it take so many steps."""
        self._go.release(steps)


def difference(one: Image.Image, other: Image.Image) -> int:
    assert one.size == other.size
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


def test_alone_a_picture_is_the_pipelines_up_to_rounding(
    make_engine: Make, fresh_pipe: DeepGenPipeline
) -> None:
    request = GenerationRequest(prompt="a red circle", seed=5, num_inference_steps=3, num_images=2)
    drawn = make_engine(max_batch=1).submit(request).result(30)
    assert [d.seed for d in drawn] == [5, 6]
    for image in drawn:
        alone = fresh_pipe("a red circle", seed=image.seed, num_inference_steps=3).images[0]
        assert difference(image.image, alone) <= LEVELS


def test_samples_that_take_turns_one_at_a_time_are_bit_equal_to_each_alone(make_engine: Make) -> None:
    engine = make_engine(max_batch=1)
    asked = [
        GenerationRequest(prompt=text, seed=k, num_inference_steps=steps, guidance_scale=scale)
        for k, (text, steps, scale) in enumerate(
            [("a red circle", 2, 4.0), ("two blue squares and a star", 4, 1.0), ("cat", 3, 2.5)]
        )
    ]
    alone = [engine.submit(request).result(30)[0].image for request in asked]
    gate = Gate(engine)
    jobs = [engine.submit(request) for request in asked]
    gate.open()
    for job, expected in zip(jobs, alone, strict=True):
        assert difference(job.result(30)[0].image, expected) == 0


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_a_batch_of_other_lengths_and_places_moves_each_latent_as_alone(
    pipe: DeepGenPipeline, guidance_scale: float
) -> None:
    sampler = Sampler(pipe)
    samples, alone = [], []
    for k, (text, steps) in enumerate([("a red circle", 4), ("two blue squares on a white ground", 5)]):
        request = GenerationRequest(prompt=text, num_inference_steps=steps, guidance_scale=guidance_scale)
        plan = sampler.plan(request)
        samples.append(sampler.begin(plan, sampler.encode(plan), seed=k))
        asked = {"num_inference_steps": steps, "guidance_scale": guidance_scale, "output_type": "latent"}
        alone.append(pipe(text, seed=k, **asked).images[0])
    sampler.step(samples[1:])  # one step ahead of the other
    for _ in range(4):
        sampler.step(samples)
    assert all(sample.is_done for sample in samples)
    for sample, expected in zip(samples, alone, strict=True):
        torch.testing.assert_close(sample.latents[0], expected, atol=LATENTS, rtol=0)


def test_presets_share_a_forward_and_move_each_latent_as_alone(pipe: DeepGenPipeline) -> None:
    sampler = Sampler(pipe, preset="fast")
    asked: list[dict[str, Any]] = [
        {"preset": "exact", "num_inference_steps": 12},
        {"preset": "balanced", "num_inference_steps": 12},
        {"preset": "fast", "num_inference_steps": 12},
    ]
    samples, rows = [], []
    for k, options in enumerate(asked):
        named = None if options["preset"] == "fast" else options["preset"]  # the sampler's own
        plan = sampler.plan(GenerationRequest(prompt="a red circle", num_inference_steps=12, preset=named))
        samples.append(sampler.begin(plan, sampler.encode(plan), seed=k))
    forward = pipe.transformer.forward

    def counted(*arguments: Any, **named: Any) -> Any:
        rows.append(len(named["hidden_states"]))
        return forward(*arguments, **named)

    pipe.transformer.forward = counted  # type: ignore[method-assign]
    try:
        while waiting := [sample for sample in samples if not sample.is_done]:
            sampler.step([one for one in waiting if one.batch_key == waiting[0].batch_key])
    finally:
        pipe.transformer.forward = forward  # type: ignore[method-assign]
    assert rows[0] == 6  # three pictures, two branches each
    resting = sum(not both for sample in samples for both in sample.has_both)
    assert resting > 0
    assert sum(rows) == 3 * 12 * 2 - resting
    for k, (sample, options) in enumerate(zip(samples, asked, strict=True)):
        expected = pipe("a red circle", seed=k, output_type="latent", **options).images[0]
        torch.testing.assert_close(sample.latents[0], expected, atol=LATENTS, rtol=0)


def test_heun_shares_a_forward_with_euler_and_moves_each_latent_as_alone(pipe: DeepGenPipeline) -> None:
    sampler, samples = Sampler(pipe), []
    for k, solver in enumerate(["heun", "euler"]):
        plan = sampler.plan(GenerationRequest(prompt="a red circle", solver=solver, num_inference_steps=3))
        samples.append(sampler.begin(plan, sampler.encode(plan), seed=k))
        assert len(samples[-1].timesteps) == plan.num_steps == (5, 3)[k]  # calls of the model
    while waiting := [sample for sample in samples if not sample.is_done]:
        sampler.step(waiting)
    for k, sample in enumerate(samples):
        asked = {"solver": ("heun", "euler")[k], "num_inference_steps": 3, "output_type": "latent"}
        expected = pipe("a red circle", seed=k, **asked).images[0]
        torch.testing.assert_close(sample.latents[0], expected, atol=LATENTS, rtol=0)


def test_progress_of_heun_counts_calls_of_the_model(make_engine: Make) -> None:
    request = GenerationRequest(prompt="a", solver="heun", num_inference_steps=3, num_previews=2)
    events = list(make_engine().submit(request).events(30))
    steps = [(event.step, event.num_steps) for event in events if isinstance(event, Progress)]
    assert steps == [(step, 5) for step in range(6)]
    assert sum(isinstance(event, Preview) for event in events) == 2
    assert events[-1] == JobDone(None)


class TakesNoStep:
    """A solver that fails."""

    def __init__(self, timesteps: torch.Tensor) -> None:
        self.timesteps = timesteps

    def step(self, *arguments: Any, **named: Any) -> Any:
        raise RuntimeError("no step")


def test_a_solver_that_remembers_is_not_moved_by_a_step_that_failed(pipe: DeepGenPipeline) -> None:
    sampler = Sampler(pipe, preset="balanced")
    plan = sampler.plan(GenerationRequest(prompt="a red circle", num_inference_steps=5, guidance_scale=1))
    conditions = sampler.encode(plan)
    whole, broken = (sampler.begin(plan, conditions, seed=1) for _ in range(2))
    other = sampler.begin(plan, conditions, seed=2)
    other.solver = TakesNoStep(other.solver.timesteps)
    for _ in range(5):
        with pytest.raises(RuntimeError, match="no step"):
            sampler.step([broken, other])
        sampler.step([broken])
        sampler.step([whole])
    assert torch.equal(whole.latents, broken.latents)


@pytest.mark.parametrize("preset", ["balanced", "fast"])
def test_a_preset_keeps_what_a_mask_keeps(make_engine: Make, image: Image.Image, preset: str) -> None:
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (30, 20, 60, 50))
    request = GenerationRequest(
        prompt="a star", images=(image,), mask=mask, seed=1, preset=preset, num_inference_steps=3
    )
    made = np.asarray(make_engine().submit(request).result(30)[0].image)
    kept = np.asarray(mask) == 0
    assert (made[kept] == np.asarray(image)[kept]).all()
    assert (made[~kept] != np.asarray(image)[~kept]).any()


def test_a_servers_preset_never_adds_steps_to_the_models_own(make_engine: Make) -> None:
    engine = make_engine(preset="fast")
    own = engine.model.defaults["num_inference_steps"]
    assert [engine.model.usual_steps(name) for name in (None, "balanced", "exact")] == [own, own, own]
    info = engine.submit(GenerationRequest(prompt="a")).info
    assert (info.settings.num_inference_steps, info.settings.preset) == (own, "fast")
    with pytest.raises(ValueError, match="unknown preset 'quick'; known: exact, balanced, fast"):
        engine.submit(GenerationRequest(prompt="a", preset="quick"))


def test_in_exact_batches_a_picture_is_bit_for_bit_what_it_is_alone(
    make_engine: Make, image: Image.Image
) -> None:
    other = image.transpose(Image.Transpose.ROTATE_90)
    asked = [
        GenerationRequest(prompt="a red circle", seed=1, num_inference_steps=3),
        GenerationRequest(
            prompt="two blue squares on a white ground and a star", seed=2, num_inference_steps=5
        ),
        GenerationRequest(prompt="cat", seed=3, num_inference_steps=4, guidance_scale=2.0),
        GenerationRequest(prompt="cat", seed=4, num_inference_steps=2, guidance_scale=1.0),
        GenerationRequest(prompt="make it blue", images=(image,), seed=5, num_images=2),
        GenerationRequest(prompt="make it red", images=(other,), seed=6, height=64, width=64),
    ]
    engine = make_engine(max_batch=4, is_exact=True)
    alone = [engine.submit(request).result(60) for request in asked]
    gate = Gate(engine)
    jobs = [engine.submit(request) for request in reversed(asked)]
    gate.open()
    for job, expected in zip(reversed(jobs), alone, strict=True):
        for made, drawn in zip(job.result(60), expected, strict=True):
            assert difference(made.image, drawn.image) == 0
    assert max(gate.batches) >= 3


def test_latents_of_exact_batches_do_not_depend_on_company_or_place(pipe: DeepGenPipeline) -> None:
    sampler = Sampler(pipe)

    def begin(text: str, seed: int) -> Any:
        plan = sampler.plan(GenerationRequest(prompt=text, num_inference_steps=4))
        return sampler.begin(plan, sampler.encode(plan), seed)

    alone = begin("a red circle", 0)
    sampler.step([alone], exact_batch=4)
    assert alone.text_length > alone.inputs.embeds["prompt_embeds"].shape[1]
    for place in range(4):
        batch = [begin(text, 7) for text in ("two big cats", "a black dog", "one star", "a blue fish")]
        batch[place] = begin("a red circle", 0)
        assert {sample.exact_key for sample in batch} == {alone.exact_key}
        sampler.step(batch, exact_batch=4)
        assert torch.equal(batch[place].latents, alone.latents)


def test_an_exact_batch_that_does_not_fit_is_halved_as_it_is_filled_up(make_engine: Make) -> None:
    engine = make_engine(is_exact=True, max_encoding_bytes=0)  # nothing that would make room first
    step, rows = engine.sampler.step, []

    def small_memory(samples: list[Any], exact_batch: int) -> None:
        rows.append(exact_batch)
        if exact_batch > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        step(samples, exact_batch)

    engine.sampler.step = small_memory  # type: ignore[method-assign]
    engine.submit(GenerationRequest(prompt="a", seed=1, num_inference_steps=1)).result(30)
    assert rows == [8, 4, 2]


def test_loras_are_loaded_by_name_and_share_forwards(
    make_engine: Make, fresh_pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    names = ("one", "two")
    for number, name in enumerate(names):
        write_lora(fresh_pipe, tmp_path / f"{name}.safetensors", number)
    fresh_pipe.unload_lora_weights()
    loras = read_loras([str(tmp_path)])
    assert list(loras) == list(names)
    expected = {None: fresh_pipe("a cat", seed=1).images[0]}
    for name in names:
        fresh_pipe.load_lora_weights(loras[name], adapter_name=name)
        fresh_pipe.set_adapters(name)
        expected[name] = fresh_pipe("a cat", seed=1).images[0]
    engine = make_engine(loras=loras)
    assert engine.model.loras == names
    gate = Gate(engine)
    asked = ["one", None, "two", "one", None]
    jobs = [engine.submit(GenerationRequest(prompt="a cat", seed=1, lora=name)) for name in asked]
    gate.open()
    for name, job in zip(asked, jobs, strict=True):
        assert difference(job.result(60)[0].image, expected[name]) <= LEVELS
    assert max(gate.batches) >= 4
    assert difference(expected["one"], expected["two"]) > 10
    assert difference(expected["one"], expected[None]) > 10
    with pytest.raises(ValueError, match="lora 'three' is not known; known: one, two"):
        engine.submit(GenerationRequest(prompt="a cat", lora="three"))


def test_a_lora_that_is_damaged_later_fails_its_request_and_no_other(
    make_engine: Make, fresh_pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    path = tmp_path / "bad.safetensors"
    write_lora(fresh_pipe, path, 0)
    engine = make_engine(loras=read_loras([f"bad={path}"]))
    path.write_bytes(b"no weights")
    with pytest.raises(WorkerFailed):
        engine.submit(GenerationRequest(prompt="a", lora="bad")).result(30)
    engine.submit(GenerationRequest(prompt="a")).result(30)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["x=/nowhere.safetensors"], "nothing at"),
        (["/nowhere"], "holds no LoRA"),
        (["a.b={path}"], "without dots"),
        (["a={path}", "a={path}"], "name of its own"),
        (["a={path}"], "LoRA a: .*a.safetensors .* does not start with a safetensors header"),
    ],
)
def test_bad_loras_are_refused_at_the_start(tmp_path: Path, given: list[str], message: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        read_loras([entry.format(path=path) for entry in given])


def test_edits_with_references_of_other_sizes_share_a_batch_and_move_as_alone(
    pipe: DeepGenPipeline, image: Image.Image
) -> None:
    sampler = Sampler(pipe)
    asked = {"height": 64, "width": 64}
    samples, alone = [], []
    for seed, reference in enumerate([image, image.crop((0, 0, 40, 32))]):
        request = GenerationRequest(
            prompt="make it blue", images=(reference,), num_inference_steps=2, **asked
        )
        plan = sampler.plan(request)
        samples.append(sampler.begin(plan, sampler.encode(plan), seed=seed))
        drawn = pipe("make it blue", image=reference, seed=seed, output_type="latent", **asked)
        alone.append(drawn.images[0])
    assert samples[0].references[0].shape != samples[1].references[0].shape
    assert samples[0].batch_key == samples[1].batch_key
    sampler.step(samples)
    sampler.step(samples)
    for sample, expected in zip(samples, alone, strict=True):
        torch.testing.assert_close(sample.latents[0], expected, atol=LATENTS, rtol=0)


def test_edits_keep_their_size_and_equal_the_pipelines(
    make_engine: Make, fresh_pipe: DeepGenPipeline, image: Image.Image
) -> None:
    engine = make_engine(max_batch=1)
    other = image.transpose(Image.Transpose.ROTATE_90)
    for images in ((image,), (image, other, image)):
        made = (
            engine.submit(GenerationRequest(prompt="make it blue", images=images, seed=3)).result(30)[0].image
        )
        alone = fresh_pipe("make it blue", image=list(images), seed=3).images[0]
        assert made.size == image.size
        assert difference(made, alone) <= LEVELS


def test_a_request_joins_between_the_steps_of_another(make_engine: Make, fresh_pipe: DeepGenPipeline) -> None:
    engine = make_engine()
    gate = Gate(engine)
    first = engine.submit(GenerationRequest(prompt="a red circle", seed=1, num_inference_steps=5))
    gate.wait()
    gate.open(1)
    gate.wait()  # before its second step
    second = engine.submit(
        GenerationRequest(prompt="a green star and a cross", seed=2, num_inference_steps=2)
    )
    gate.open()
    results = [first.result(30)[0].image, second.result(30)[0].image]
    assert gate.batches == [1, 1, 2, 2, 1]
    for image, text, seed, steps in zip(
        results, ["a red circle", "a green star and a cross"], [1, 2], [5, 2], strict=True
    ):
        alone = fresh_pipe(text, seed=seed, num_inference_steps=steps).images[0]
        assert difference(image, alone) <= LEVELS


def test_samples_of_other_shapes_are_stepped_in_turn(make_engine: Make) -> None:
    engine = make_engine()
    gate = Gate(engine)
    jobs = [
        engine.submit(GenerationRequest(prompt="a", seed=k, num_inference_steps=2, height=side, width=side))
        for k, side in enumerate([64, 32, 64, 32])
    ]
    gate.open()
    for job, side in zip(jobs, [64, 32, 64, 32], strict=True):
        assert job.result(30)[0].image.size == (side, side)
    assert max(gate.batches) == 2


def test_events_tell_the_place_progress_previews_and_the_picture(make_engine: Make) -> None:
    job = make_engine().submit(GenerationRequest(prompt="a", seed=1, num_inference_steps=4, num_previews=3))
    events = list(job.events(30))
    assert events[0] == Queued(0)
    assert [e.step for e in events if isinstance(e, Progress)] == [0, 1, 2, 3, 4]
    assert [e.number for e in events if isinstance(e, Preview)] == [0, 1, 2]
    assert {e.image.size for e in events if isinstance(e, Preview)} == {(32, 32)}
    assert isinstance(events[-2], ImageDone)
    assert events[-1] == JobDone(None)


def test_a_linear_preview_knows_colours_from_latents(pipe: DeepGenPipeline) -> None:
    preview = LatentPreview.fit(pipe.vae)
    known = LatentPreview(torch.cat([torch.eye(16)[:, :3], torch.zeros(1, 3)]))
    latents = torch.zeros(16, 4, 6)
    latents[0] = 1.0
    assert known(latents).getpixel((5, 5)) == (255, 128, 128)
    assert preview.weight.shape == (17, 3)
    assert torch.isfinite(preview.weight).all()


def test_a_cancelled_job_stops_between_steps_and_its_neighbour_goes_on(make_engine: Make) -> None:
    engine = make_engine()
    gate = Gate(engine)
    jobs = [engine.submit(GenerationRequest(prompt="a", seed=k, num_inference_steps=6)) for k in range(2)]
    gate.wait()
    jobs[0].cancel()
    gate.open()
    with pytest.raises(Cancelled):
        jobs[0].result(30)
    assert jobs[1].result(30)[0].image.size == (64, 64)
    assert gate.batches[-1] == 1


def test_a_job_that_is_late_ends_while_it_waits_or_is_drawn(make_engine: Make) -> None:
    engine = make_engine(max_running=1)
    gate = Gate(engine)
    jobs = [
        engine.submit(GenerationRequest(prompt="a", num_inference_steps=4, timeout_s=0.2)) for _ in range(2)
    ]
    gate.wait()
    time.sleep(0.3)
    gate.open()
    for job in jobs:
        with pytest.raises(DeadlineExceeded, match="within the request"):
            job.result(30)
    assert engine.status().running == engine.status().waiting == 0


def test_keys_take_turns(make_engine: Make) -> None:
    engine = make_engine(max_running=1)
    gate, order = Gate(engine), []

    def listen(key: str) -> Callable[[Any], None]:
        return lambda event: order.append(key) if isinstance(event, ImageDone) else None

    first = GenerationRequest(prompt="a", num_inference_steps=1, num_images=5, key="busy")
    jobs = [engine.submit(first, listen("busy"))]
    gate.wait()
    jobs.append(
        engine.submit(GenerationRequest(prompt="b", num_inference_steps=1, key="other"), listen("other"))
    )
    gate.open()
    for job in jobs:
        job.result(30)
    assert order.index("other") <= 2
    assert len(order) == 6


def test_the_fair_queue_serves_one_of_each_key_in_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.push(item[0], item)
    queue.remove(lambda item: item == "a2")
    assert list(queue.in_order()) == ["a1", "b1", "c1", "a3", "c2"]
    assert [queue.pop() for _ in range(5)] == ["a1", "b1", "c1", "a3", "c2"]
    with pytest.raises(IndexError, match="empty"):
        queue.pop()


def test_a_full_queue_refuses_and_says_when_to_come_back(make_engine: Make) -> None:
    engine = make_engine(max_running=1, max_waiting=2, max_waiting_per_key=1)
    gate = Gate(engine)
    jobs = [engine.submit(GenerationRequest(prompt="a", num_inference_steps=3, key="one"))]
    gate.wait()
    jobs.append(engine.submit(GenerationRequest(prompt="a", num_inference_steps=3, key="one")))
    with pytest.raises(QueueFull, match="of one key"):
        engine.submit(GenerationRequest(prompt="a", key="one"))
    jobs.append(engine.submit(GenerationRequest(prompt="a", num_inference_steps=3, key="two")))
    with pytest.raises(QueueFull, match="2 pictures wait") as refused:
        engine.submit(GenerationRequest(prompt="a", key="three"))
    assert refused.value.retry_after >= 1
    gate.open()
    for job in jobs:
        job.result(30)
    engine.submit(GenerationRequest(prompt="a", num_inference_steps=1, key="three")).result(30)


def test_an_error_is_retried_once_and_the_picture_is_the_same(
    make_engine: Make, fresh_pipe: DeepGenPipeline
) -> None:
    engine = make_engine()
    step, errors = engine.sampler.step, [RuntimeError("a cable came loose")]

    def fail_once(samples: list[Any]) -> None:
        if errors:
            raise errors.pop()
        step(samples)

    engine.sampler.step = fail_once  # type: ignore[method-assign]
    made = engine.submit(GenerationRequest(prompt="a", seed=1)).result(30)[0].image
    assert difference(made, fresh_pipe("a", seed=1).images[0]) <= LEVELS


@pytest.mark.parametrize("part", ["encode", "step", "finish"])
def test_a_lasting_error_fails_the_request_with_an_id_and_the_engine_goes_on(
    make_engine: Make, monkeypatch: pytest.MonkeyPatch, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine, calls = make_engine(), []

    def fail(*arguments: Any) -> None:
        calls.append(arguments)
        raise RuntimeError("secret detail")

    with monkeypatch.context() as patch:
        patch.setattr(engine.sampler, part, fail)
        with pytest.raises(WorkerFailed) as failed:
            engine.submit(GenerationRequest(prompt="a", num_inference_steps=1)).result(30)
    assert len(calls) == 2
    assert "secret" not in str(failed.value)
    assert failed.value.error_id in caplog.text
    engine.submit(GenerationRequest(prompt="a", num_inference_steps=1)).result(30)


def test_what_does_not_fit_is_halved_and_then_refused(make_engine: Make) -> None:
    engine = make_engine(max_encoding_bytes=0)  # nothing that would make room first
    step, sizes, fits = engine.sampler.step, [], [2]

    def small_memory(samples: list[Any]) -> None:
        sizes.append(len(samples))
        if len(samples) > fits[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(samples)

    engine.sampler.step = small_memory  # type: ignore[method-assign]
    job = engine.submit(GenerationRequest(prompt="a", seed=1, num_images=8, num_inference_steps=2))
    assert len(job.result(30)) == 8
    assert sizes == [8, 4, 2, 2, 4, 2, 2] + [2] * 4
    fits[0] = 0
    with pytest.raises(OutOfMemory):
        engine.submit(GenerationRequest(prompt="a", num_inference_steps=1)).result(30)


def test_a_mask_keeps_every_pixel_outside_it(make_engine: Make, image: Image.Image) -> None:
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (30, 20, 60, 50))
    request = GenerationRequest(prompt="a star", images=(image,), mask=mask, seed=1)
    made = np.asarray(make_engine().submit(request).result(30)[0].image)
    outside = np.asarray(mask) == 0
    before = np.asarray(image)
    assert (made[outside] == before[outside]).all()
    assert (made[~outside] != before[~outside]).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": 3}, "prompt is int, expected a string"),
        ({"prompt": None}, "prompt is missing"),
        ({"height": 65, "width": 64}, "not a multiple"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"num_images": 0}, "num_images"),
        ({"mask": Image.new("L", (4, 4))}, "give the picture"),
        ({"images": (Image.new("RGB", (64, 64)),), "mask": Image.new("L", (4, 4))}, "equally large"),
        ({"images": (Image.new("RGB", (64, 64)),), "mask": Image.new("L", (64, 64))}, "no pixel"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_it_waits(
    make_engine: Make, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_engine().submit(GenerationRequest(**{"prompt": "a", **fields}))


def test_draining_finishes_what_was_accepted_and_takes_nothing_new(make_engine: Make) -> None:
    engine = make_engine(max_running=1)
    jobs = [engine.submit(GenerationRequest(prompt="a", num_inference_steps=2)) for _ in range(3)]
    assert engine.drain(30)
    assert [len(job.result(0)) for job in jobs] == [1, 1, 1]
    with pytest.raises(Draining):
        engine.submit(GenerationRequest(prompt="a"))


def test_closing_ends_what_is_not_done(make_engine: Make) -> None:
    engine = make_engine(max_running=1)
    gate = Gate(engine)
    jobs = [engine.submit(GenerationRequest(prompt="a", num_inference_steps=50)) for _ in range(2)]
    gate.wait()
    assert not engine.drain(0.01)
    gate.open()
    engine.close()
    for job in jobs:
        with pytest.raises(Draining):
            job.result(5)
