"""The server's engine on a pretended CUDA device: the CPU's pictures, one copy to the host for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.adapters import read_loras
from deepgen.serving.engine import Engine, EngineConfig
from deepgen.serving.jobs import GenerationRequest
from pretended_device import PretendedDevice
from random_lora import write_lora

LEVELS = 1  # of 255, by which roundings may differ
SHOWN = Image.fromarray(np.linspace(0, 255, 90 * 70 * 3).reshape(70, 90, 3).astype(np.uint8))
MASK = Image.new("L", SHOWN.size)
MASK.paste(255, (20, 20, 60, 50))

REQUESTS = [
    GenerationRequest(prompt="a red circle", seed=5, num_inference_steps=3, num_images=2),
    GenerationRequest(prompt="a prompt of more words than that", seed=6, num_inference_steps=4),
    GenerationRequest(prompt="a preset", seed=6, preset="fast"),
    GenerationRequest(prompt="an adapter", seed=6, num_inference_steps=2, lora="one"),
    GenerationRequest(prompt="make it blue", seed=7, images=(SHOWN,), num_inference_steps=2),
    GenerationRequest(prompt="make it red", seed=7, images=(SHOWN,), mask=MASK, num_inference_steps=2),
    GenerationRequest(
        prompt="join them", seed=7, images=(SHOWN, SHOWN.resize((64, 96))), num_inference_steps=2
    ),
]


def drawn(pipe: DeepGenPipeline, lora: Path, device: PretendedDevice | None = None) -> list[np.ndarray]:
    engine = Engine(pipe, EngineConfig(max_batch=3, loras=read_loras([f"one={lora}"])))
    try:
        if device is not None:
            device.forget()  # what it did to get ready
        jobs = [engine.submit(request) for request in REQUESTS]
        return [np.asarray(one.image, dtype=int) for job in jobs for one in job.result(300)]
    finally:
        engine.close()


@pytest.mark.slow
def test_requests_of_all_kinds_are_drawn_as_on_the_cpu(
    pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    lora = tmp_path / "one.safetensors"
    write_lora(pipe, lora, 3)
    pipe.unload_lora_weights()
    expected = drawn(pipe, lora)
    with PretendedDevice() as device:
        fresh_pipe.to("cuda")
        found = drawn(fresh_pipe, lora, device)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= LEVELS
    lines = [wait.line for wait in device.waits]
    assert sum(line.startswith("transfer.py") for line in lines) == len(expected), device.report()
    assert not [line for line in lines if line.startswith(("sampling/", "serving/", "denoising"))], (
        device.report()
    )
