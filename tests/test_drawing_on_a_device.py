"""Drawing on a CUDA device that is pretended: the CPU's pictures, and next to no waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from PIL import Image

from deepgen.cli.loading import load_pipeline
from deepgen.cli.options import ModelOptions
from deepgen.pipeline import DeepGenPipeline
from pretended_device import MEMORY, PretendedDevice
from random_lora import write_lora

# Roundings of pixels in [0, 1], and of uint8.
CLOSE, LEVELS = 1e-4, 1

PROMPTS = ["a red circle", "two blue squares left of a green one", "a cat"]


def image(width: int, height: int) -> Image.Image:
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return Image.fromarray(ramp.astype(np.uint8))


def mask(width: int, height: int) -> Image.Image:
    made = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    made.paste((0, 0, 0, 0), (20, 20, 60, 50))
    return made


WIDE, TALL = image(90, 70), image(64, 96)

CALLS: dict[str, dict[str, Any]] = {
    "several prompts": {"prompt": PROMPTS[:2], "output_type": "pil"},
    "mixed references": {"prompt": PROMPTS[:2], "image": [[WIDE, TALL], [TALL]], "height": 64, "width": 64},
}
MORE_CALLS: dict[str, dict[str, Any]] = {
    "three prompts": {"prompt": PROMPTS},
    "balanced": {"prompt": PROMPTS[:2], "preset": "balanced"},
    "an edit with a mask": {"prompt": "make it blue", "image": WIDE, "mask": mask(90, 70)},
    "one prompt": {"prompt": PROMPTS[0]},
    "samples of a prompt": {"prompt": PROMPTS[:2], "num_images_per_prompt": 2},
    "without guidance": {"prompt": PROMPTS[0], "guidance_scale": 1.0},
    "split guidance": {"prompt": PROMPTS[0], "guidance_batching": "split"},
    "padding of a batch": {"prompt": PROMPTS, "padding": "batch"},
    "negative prompts": {"prompt": PROMPTS[:2], "negative_prompt": ["dark", "blurred and dark"]},
    "fast": {"prompt": PROMPTS[0], "preset": "fast"},
    "heun": {"prompt": PROMPTS[0], "solver": "heun", "num_inference_steps": 3},
    "dpm++": {"prompt": PROMPTS[0], "solver": "dpm++", "num_inference_steps": 3},
    "unipc": {"prompt": PROMPTS[0], "solver": "unipc", "num_inference_steps": 3},
    "sigmas": {"prompt": PROMPTS[0], "sigmas": [1.0, 0.5]},
    "latents": {"prompt": PROMPTS[0], "output_type": "latent"},
    "tensors": {"prompt": PROMPTS[0], "output_type": "pt"},
    "an edit": {"prompt": "make it blue", "image": WIDE},
    "edits of two sizes": {"prompt": PROMPTS[:2], "image": [WIDE, TALL]},
    "two references": {"prompt": "join them", "image": [WIDE, TALL]},
    "a mask and a preset": {"prompt": "it", "image": WIDE, "mask": mask(90, 70), "preset": "fast"},
}


def drawn(pipe: DeepGenPipeline, call: dict[str, Any]) -> list[np.ndarray]:
    images = pipe(**{"output_type": "np", "seed": 1, **call}).images
    return [np.asarray(one.cpu() if isinstance(one, torch.Tensor) else one, np.float32) for one in images]


def assert_same(ours: list[np.ndarray], theirs: list[np.ndarray], bound: float = CLOSE) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= bound


def in_phases(pipe: DeepGenPipeline, device: PretendedDevice) -> None:
    """Count waits before, in and after the steps each for themselves."""
    denoise = pipe.denoise

    def counted(*args: Any, **kwargs: Any) -> Any:
        device.phase = "steps"
        clean = denoise(*args, **kwargs)
        device.phase = "after"
        return clean

    pipe.denoise = counted
    device.forget()
    device.phase = "before"


def check(name: str, call: dict[str, Any], pipe: DeepGenPipeline, other: DeepGenPipeline) -> None:
    expected = drawn(pipe, call)
    with PretendedDevice() as device:
        other.to("cuda")
        in_phases(other, device)
        found = drawn(other, call)
        report = device.report()
    assert_same(found, expected, LEVELS if call.get("output_type") == "pil" else CLOSE)
    assert device.count("steps") == 0, report
    assert device.count("before") <= 1, report
    if name not in ("latents", "tensors"):  # which the test itself copies to the host
        assert device.count("after") == 1, report


@pytest.mark.parametrize("name", CALLS)
def test_a_call_draws_the_cpus_pictures_and_waits_once_before_and_once_after(
    name: str, pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline
) -> None:
    check(name, CALLS[name], pipe, fresh_pipe)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_CALLS)
def test_other_calls_draw_the_cpus_pictures(
    name: str, pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline
) -> None:
    check(name, MORE_CALLS[name], pipe, fresh_pipe)


# --- where weights are
# ---------------------------------------------------------------------------------------

OFFLOADS: dict[str, Callable[[DeepGenPipeline], Any]] = {
    "model": lambda pipe: pipe.enable_model_cpu_offload(device="cuda"),
    "sequential": lambda pipe: pipe.enable_sequential_cpu_offload(device="cuda"),
    "group": lambda pipe: pipe.enable_group_offload(
        onload_device=torch.device("cuda"), offload_type="leaf_level", use_stream=True
    ),
    "blocks": lambda pipe: pipe.enable_group_offload(
        onload_device=torch.device("cuda"), offload_type="block_level", num_blocks_per_group=1
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "model" else pytest.mark.slow) for n in OFFLOADS]
)
@pytest.mark.parametrize(
    "call",
    [
        "several prompts",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("an edit", "mixed references")),
    ],
)
def test_offloading_draws_the_cpus_pictures(
    name: str, call: str, pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline
) -> None:
    expected = drawn(pipe, {**CALLS, **MORE_CALLS}[call])
    with PretendedDevice():
        OFFLOADS[name](fresh_pipe)
        assert_same(drawn(fresh_pipe, {**CALLS, **MORE_CALLS}[call]), expected, LEVELS)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["auto", "1"])
def test_the_command_lines_pipeline_is_placed_by_the_memory_of_the_device(
    memory: str, pipe: DeepGenPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe.save_pretrained(tmp_path / "model")
    expected = drawn(pipe, CALLS["several prompts"])
    with PretendedDevice():
        loaded = load_pipeline(ModelOptions(model=str(tmp_path / "model"), memory=memory, dtype="float32"))
        loaded.set_progress_bar_config(disable=True)
        assert_same(drawn(loaded, CALLS["several prompts"]), expected, LEVELS)
        assert loaded._execution_device == torch.device("cuda", 0)
    said = capsys.readouterr().err
    assert (f"{MEMORY / 1e9:.1f} GB free on cuda" if memory == "auto" else "1 GB asked for") in said
    assert "loaded" in said
    assert "on cuda" in said


@pytest.mark.slow
def test_a_large_model_is_read_in_sixteen_bits_straight_to_the_device(
    pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path / "model")
    with PretendedDevice() as device:
        loaded = load_pipeline(ModelOptions(model=str(tmp_path / "model")))
        loaded.set_progress_bar_config(disable=True)
        assert loaded.transformer.dtype == torch.bfloat16
        device.forget()
        assert np.isfinite(drawn(loaded, {"prompt": PROMPTS[0]})).all()


# --- adapters, caches, number formats
# ------------------------------------------------------------------------


def with_tiles(pipe: DeepGenPipeline) -> None:
    pipe.vae.enable_tiling()


CHANGES: dict[str, Callable[[DeepGenPipeline], Any]] = {
    "tiles": with_tiles,
    "slices": lambda pipe: pipe.vae.enable_slicing(),
    "fused projections": lambda pipe: pipe.transformer.fuse_qkv_projections(),
    "first block cache": lambda pipe: pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1)),
    "taylor": lambda pipe: pipe.transformer.enable_cache(
        TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1, max_order=1)
    ),
    "pyramid": lambda pipe: pipe.transformer.enable_cache(
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(100, 1000),
            current_timestep_callback=lambda: pipe.current_timestep,
        )
    ),
    "faster": lambda pipe: pipe.transformer.enable_cache(
        FasterCacheConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(-1, 901),
            unconditional_batch_skip_range=2,
            attention_weight_callback=lambda _: 0.5,
            current_timestep_callback=lambda: pipe.current_timestep,
            tensor_format="BCHW",
        )
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_switched_on_draws_the_cpus_pictures(
    name: str, pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline
) -> None:
    call = {"prompt": PROMPTS[:2], "num_inference_steps": 6}
    CHANGES[name](pipe)
    expected = drawn(pipe, call)
    with PretendedDevice() as device:
        CHANGES[name](fresh_pipe)
        fresh_pipe.to("cuda")
        in_phases(fresh_pipe, device)
        assert_same(drawn(fresh_pipe, call), expected)
    if name in ("first block cache", "faster"):  # they look at values, and make tensors of numbers
        assert device.count("steps") <= 12, device.report("steps")
    else:
        assert device.count("steps") == 0, device.report("steps")


@pytest.mark.slow
@pytest.mark.parametrize("is_moved_first", [True, False])
def test_a_lora_draws_the_cpus_pictures(
    is_moved_first: bool, pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    write_lora(pipe, tmp_path / "one.safetensors", 3)
    pipe.unload_lora_weights()
    pipe.load_lora_weights(tmp_path / "one.safetensors", adapter_name="one")
    call = {"prompt": PROMPTS[:2], "joint_attention_kwargs": {"scale": 0.7}}
    expected = drawn(pipe, call)
    with PretendedDevice() as device:
        if is_moved_first:
            fresh_pipe.to("cuda")
        fresh_pipe.load_lora_weights(tmp_path / "one.safetensors", adapter_name="one")
        fresh_pipe.to("cuda")
        in_phases(fresh_pipe, device)
        assert_same(drawn(fresh_pipe, call), expected)
        assert device.count("steps") == 0, device.report("steps")


def _loaded(pipe: DeepGenPipeline, file: Path) -> None:
    pipe.load_lora_weights(file, adapter_name="one")


def _fused(pipe: DeepGenPipeline, file: Path) -> None:
    _loaded(pipe, file)
    pipe.fuse_lora()


def _unfused(pipe: DeepGenPipeline, file: Path) -> None:
    _fused(pipe, file)
    drawn(pipe, {"prompt": "x"})
    pipe.unfuse_lora()


def _saved(pipe: DeepGenPipeline, file: Path) -> None:
    _loaded(pipe, file)
    pipe.save_lora_weights(file.parent / "saved", adapter_name="one")
    pipe.unload_lora_weights()
    pipe.load_lora_weights(file.parent / "saved", adapter_name="two")


@pytest.mark.slow
@pytest.mark.parametrize("change", [_loaded, _fused, _unfused, _saved])
@pytest.mark.parametrize("name", OFFLOADS)
def test_a_lora_of_an_offloaded_pipeline_draws_the_cpus_pictures(
    name: str,
    change: Callable[[DeepGenPipeline, Path], None],
    pipe: DeepGenPipeline,
    fresh_pipe: DeepGenPipeline,
    tmp_path: Path,
) -> None:
    write_lora(pipe, tmp_path / "one.safetensors", 3)
    pipe.unload_lora_weights()
    without = drawn(pipe, {"prompt": PROMPTS[0]})
    change(pipe, tmp_path / "one.safetensors")
    expected = drawn(pipe, {"prompt": PROMPTS[0]})
    assert np.abs(expected[0] - without[0]).max() > 0.05
    with PretendedDevice():
        OFFLOADS[name](fresh_pipe)
        change(fresh_pipe, tmp_path / "one.safetensors")
        assert_same(drawn(fresh_pipe, {"prompt": PROMPTS[0]}), expected, 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["int8", "fp8"])
@pytest.mark.parametrize("is_offloaded", [False, True])
def test_quantised_parts_draw_the_cpus_pictures(
    quantize: Any, is_offloaded: bool, pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    pytest.importorskip("torchao", reason="int8 and fp8 weights are torchao's, of the extra `quant`")
    from deepgen.cli.loading import quantization

    pipe.save_pretrained(tmp_path / "model")
    settings = {"quantization_config": quantization(quantize, torch.float32)}

    def load(**placed: Any) -> DeepGenPipeline:
        loaded = DeepGenPipeline.from_pretrained(tmp_path / "model", **settings, **placed)
        loaded.set_progress_bar_config(disable=True)
        return loaded

    expected = drawn(load(), {"prompt": PROMPTS[:2]})
    with PretendedDevice():
        there = load() if is_offloaded else load(device_map="cuda")
        if is_offloaded:
            there.enable_model_cpu_offload(device="cuda")
        assert_same(drawn(there, {"prompt": PROMPTS[:2]}), expected)
