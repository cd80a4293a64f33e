"""What code written for any diffusers pipeline expects of this one.

Each of diffusers' own tests that failed on ours (`make peers`) stands here in small.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DiffusionPipeline,
    FasterCacheConfig,
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    UniPCMultistepScheduler,
    apply_pyramid_attention_broadcast,
)
from diffusers.callbacks import (
    MultiPipelineCallbacks,
    SD3CFGCutoffCallback,
    SDCFGCutoffCallback,
    SDXLCFGCutoffCallback,
)
from diffusers.utils import logging
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image
from torch import Tensor

from deepgen import diffusers_registration
from deepgen.checkpoints import remote_code
from deepgen.models import vae as latent_space
from deepgen.models.connector import StackedChannelBridgeOutput
from deepgen.pipeline import DeepGenPipeline

REFERENCE = Image.new("RGB", (64, 64), (200, 30, 30))


def draw(pipe: DeepGenPipeline, kind: str = "drawing", **options: Any) -> Tensor:
    """Latents of two samples of one prompt, three steps."""
    image = {"image": REFERENCE} if kind == "edit" else {}
    given = {"num_images_per_prompt": 2, "seed": 1, "num_inference_steps": 3, "output_type": "latent"}
    return pipe("a cat", **{**image, **given, **options}).images


@pytest.fixture
def folder(pipe: DeepGenPipeline, tmp_path: Path) -> Path:
    pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# --- folders ------------------------------------------------------------------------------------------------

FRESH = """
import sys
from diffusers import DiffusionPipeline
folder = sys.argv[1]
assert not any(name.split(".")[0] == "deepgen" for name in sys.modules)
try:
    DiffusionPipeline.from_pretrained(folder)
except ValueError as error:
    assert "trust_remote_code" in str(error), error
else:
    raise SystemExit("the folder's code ran unasked")
pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
dtypes = {str(part.dtype) for part in (pipe.vlm, pipe.connector, pipe.transformer, pipe.vae)}
assert dtypes == {"torch.float32"}, dtypes
again = DiffusionPipeline.from_pretrained(folder)  # deepgen is imported now
print(type(pipe).__module__, type(again).__module__, pipe.defaults == again.defaults)
"""


def test_a_saved_folder_loads_in_a_fresh_process(folder: Path, tmp_path: Path) -> None:
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    source = str(Path(__file__).parents[1] / "src")
    ended = subprocess.run(
        [sys.executable, "-c", FRESH, str(folder)],
        env={**environment, "PYTHONPATH": source, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.split() == ["deepgen.pipeline", "deepgen.pipeline", "True"]


def test_our_own_loading_runs_no_code_of_a_folder(folder: Path) -> None:
    (folder / "deepgen_pipeline.py").write_text("raise SystemExit('code of the folder ran')")
    for load in (DeepGenPipeline.from_pretrained, DiffusionPipeline.from_pretrained):
        assert type(load(folder)) is DeepGenPipeline
        assert type(load(str(folder), dtype=torch.float32, trust_remote_code=True)) is DeepGenPipeline


def test_loading_says_of_every_part_where_it_came_from(folder: Path, caplog) -> None:
    name = "diffusers.pipelines.pipeline_utils"
    logging.get_logger(name).addHandler(caplog.handler)
    with caplog.at_level("INFO", logger=name):
        DeepGenPipeline.from_pretrained(folder)
    logging.get_logger(name).removeHandler(caplog.handler)
    parts = ("vlm", "connector", "transformer", "vae", "scheduler", "tokenizer")
    assert all(any(f"Loaded {part} as " in line for line in caplog.messages) for part in parts)


def test_diffusers_learns_of_us_when_it_is_imported_later(tmp_path: Path, monkeypatch) -> None:
    source = "class DiffusionPipeline:\n    @classmethod\n    def from_pretrained(cls, path): return path\n"
    (tmp_path / "later_library.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(diffusers_registration, "_MODULE", "later_library")
    diffusers_registration.register()
    import later_library  # pyright: ignore[reportMissingImports]

    assert hasattr(later_library.DiffusionPipeline.from_pretrained.__func__, "of_deepgen")
    assert later_library.DiffusionPipeline.from_pretrained("elsewhere") == "elsewhere"
    assert not any(isinstance(finder, diffusers_registration._Finder) for finder in sys.meta_path)


def test_a_pipeline_of_another_class_goes_to_diffusers(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "NoSuchPipeline"}))
    with pytest.raises(AttributeError, match="NoSuchPipeline"):
        DiffusionPipeline.from_pretrained(tmp_path)


def test_the_module_of_a_folder_says_what_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "deepgen.pipeline", None)
    with pytest.raises(ModuleNotFoundError, match="install it as its README says"):
        exec(compile(remote_code.SOURCE, "deepgen_pipeline.py", "exec"), {})


@pytest.mark.parametrize(("shards", "dtype"), [(None, torch.float32), ("40KB", None)])
def test_variants_and_shards_go_both_ways(
    pipe: DeepGenPipeline, tmp_path: Path, shards: str | None, dtype: torch.dtype | None
) -> None:
    pipe.save_pretrained(tmp_path, variant="fp16", max_shard_size=shards)
    names = [path.name for path in tmp_path.glob("*/*.safetensors")]
    assert all(".fp16" in name for name in names)
    assert any("-00002-of-" in name for name in names) == (shards is not None)
    loaded = DeepGenPipeline.from_pretrained(tmp_path, variant="fp16", dtype=dtype)
    for name in ("vlm", "connector", "transformer", "vae"):
        ours, theirs = getattr(pipe, name).state_dict(), getattr(loaded, name).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    with pytest.raises(FileNotFoundError, match="ask for one of them: variant='fp16'"):
        DeepGenPipeline.from_pretrained(tmp_path)
    next(tmp_path.glob("connector/*.safetensors")).unlink()
    with pytest.raises(FileNotFoundError, match="connector"):
        DeepGenPipeline.from_pretrained(tmp_path, variant="fp16")


def test_a_variant_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="variant=fp16"):
        DeepGenPipeline.from_pretrained(folder, variant="fp16")
    with pytest.raises(ValueError, match="variant is for folders that save_pretrained wrote"):
        DeepGenPipeline.from_pretrained(folder, variant="fp16", lora="ignore")


# --- parts --------------------------------------------------------------------------------------------------


def test_settings_go_with_the_parts(pipe: DeepGenPipeline) -> None:
    mine = {"height": 32, "width": 48, "num_inference_steps": 3, "guidance_scale": 2.5}
    pipe.register_to_config(defaults=mine, max_prompt_tokens=77)
    other = DeepGenPipeline(**pipe.components, defaults={"height": 16})
    assert other.defaults["height"] == 16
    for copy in (DeepGenPipeline(**pipe.components), DeepGenPipeline.from_pipe(pipe)):
        assert (copy.config.defaults, copy.config.max_prompt_tokens) == (mine, 77)
        assert copy("a cat", seed=1).images[0].size == (48, 32)
    assert DeepGenPipeline(**other.components).config.defaults == {"height": 16}


def test_from_pipe_keeps_the_dtype(pipe: DeepGenPipeline) -> None:
    pipe.to(dtype=torch.bfloat16)
    assert DeepGenPipeline.from_pipe(pipe).transformer.dtype == torch.bfloat16
    assert DeepGenPipeline.from_pipe(pipe, torch_dtype=torch.float32).transformer.dtype == torch.float32


def test_an_autoencoder_tiny_draws_edits_and_is_saved(pipe: DeepGenPipeline, tmp_path: Path) -> None:
    torch.manual_seed(0)
    blocks = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    pipe.vae = AutoencoderTiny(
        **blocks, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4, latent_channels=16
    )
    pipe.vae.eval()
    sampled, mode = (
        pipe("blue", image=REFERENCE, seed=1, output_type="pt", reference_posterior=posterior).images
        for posterior in ("sample", "mode")
    )
    assert sampled.shape == (1, 3, 64, 64)
    assert torch.equal(sampled, mode), "it has no spread to draw from"
    expected = pipe("a cat", seed=1, output_type="pt").images
    pipe.save_pretrained(tmp_path)
    for dtype in (None, torch.float32):
        loaded = DeepGenPipeline.from_pretrained(tmp_path, dtype=dtype)
        assert isinstance(loaded.vae, AutoencoderTiny)
        assert (loaded("a cat", seed=1, output_type="pt").images - expected).abs().max() < 1e-5


def test_a_null_shift_factor_is_no_shift(pipe: DeepGenPipeline) -> None:
    latents = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    pipe.vae.register_to_config(shift_factor=0.0)
    expected = latent_space.decode(pipe.vae, latents)
    pipe.vae.register_to_config(shift_factor=None)
    assert torch.equal(latent_space.decode(pipe.vae, latents), expected)
    assert pipe("blue", image=REFERENCE, seed=1).images


def test_the_connector_wraps_its_result_when_asked(pipe: DeepGenPipeline) -> None:
    states = torch.randn(1, 6, pipe.connector.tap_projector.in_features)
    embeds, pooled = pipe.connector(states)
    wrapped = pipe.connector(states, return_dict=True)
    assert isinstance(wrapped, StackedChannelBridgeOutput)
    assert torch.equal(wrapped.prompt_embeds, embeds)
    assert torch.equal(wrapped["pooled_prompt_embeds"], pooled)


# --- the run under way --------------------------------------------------------------------------------------


def test_a_run_tells_where_it_is(pipe: DeepGenPipeline) -> None:
    seen = []

    def look(pipe: DeepGenPipeline, step: int, timestep: Tensor, tensors: dict) -> dict:
        assert pipe.current_timestep is timestep
        seen.append((pipe.num_timesteps, pipe.guidance_scale, pipe.do_classifier_free_guidance))
        assert not pipe.interrupt
        return {}

    draw(pipe, guidance_scale=3.0, callback_on_step_end=look)
    draw(pipe, guidance_scale=1.0, callback_on_step_end=look)
    assert seen == [(3, 3.0, True)] * 3 + [(3, 1.0, False)] * 3
    assert pipe.current_timestep is None
    assert pipe.joint_attention_kwargs is None


def test_a_run_that_fails_leaves_nothing_behind(pipe: DeepGenPipeline) -> None:
    expected = draw(pipe)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    cached = draw(pipe)

    def fail(*_: Any) -> dict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(pipe, callback_on_step_end=fail, joint_attention_kwargs={"scale": 1.0})
    assert pipe.current_timestep is None
    assert pipe.joint_attention_kwargs is None
    assert torch.equal(draw(pipe), cached)
    pipe.transformer.disable_cache()
    assert torch.equal(draw(pipe), expected), "our own shortcuts are back once the hooks are gone"


def test_a_run_is_interrupted(pipe: DeepGenPipeline) -> None:
    def by_attribute() -> None:
        pipe._interrupt = True

    def by_old_call() -> None:
        with pytest.warns(FutureWarning, match=r"pipe\.stop\(\)"):
            pipe.interrupt()  # pyright: ignore[reportCallIssue]

    def by_thread() -> None:
        thread = threading.Thread(target=pipe.stop)
        thread.start()
        thread.join()

    for stop in (by_attribute, by_old_call, by_thread, pipe.stop):
        steps = []

        def end(pipe: DeepGenPipeline, step: int, *_: Any, steps: list = steps, stop: Any = stop) -> dict:
            steps.append(step)
            assert not pipe.interrupt
            stop()
            assert pipe.interrupt
            assert repr(pipe.interrupt) == "True"
            return {}

        assert len(draw(pipe, callback_on_step_end=end)) == 2
        assert steps == [0]


def test_sigmas_are_the_steps(pipe: DeepGenPipeline) -> None:
    own = np.linspace(1, 1 / 3, 3)
    assert torch.equal(draw(pipe, num_inference_steps=None, sigmas=own), draw(pipe, sigmas=own.tolist()))
    levels: list[float] = []
    pipe(
        "a",
        sigmas=[1.0, 0.5],
        callback_on_step_end=lambda p, i, t, k: levels.append(float(t) / 1000) or {},
    )
    shift = pipe.scheduler.config.shift
    assert levels == pytest.approx([1.0, shift * 0.5 / (1 + (shift - 1) * 0.5)])
    assert not torch.equal(draw(pipe, sigmas=[1.0, 0.9, 0.1]), draw(pipe))


REFUSED = [
    ({"sigmas": [0.5, 1.0], "num_inference_steps": 2}, "sigmas must fall"),
    ({"sigmas": [], "num_inference_steps": None}, "sigmas must fall"),
    ({"sigmas": [1000.0, 500.0], "num_inference_steps": 2}, "above 0 and up to 1"),
    ({"sigmas": [1.0, 0.5]}, "2 sigmas are as many steps, and num_inference_steps is 3"),
    ({"sigmas": [1.0, 0.5, 0.2], "preset": "fast"}, "'fast' spaces its steps itself"),
    ({"joint_attention_kwargs": {"ip_adapter_masks": 1}}, "unknown ip_adapter_masks; known: scale"),
    ({"joint_attention_kwargs": {"scale": float("nan")}}, "scale must be a finite number"),
    ({"callback_on_step_end": SDXLCFGCutoffCallback()}, "unknown add_text_embeds, add_time_ids"),
]


def test_what_does_not_fit_is_refused(pipe: DeepGenPipeline) -> None:
    for options, message in REFUSED:
        with pytest.raises(ValueError, match=message):
            draw(pipe, **options)


def test_joint_attention_kwargs_scale_all_loras(pipe: DeepGenPipeline, caplog) -> None:
    plain = draw(pipe)
    draw(pipe, joint_attention_kwargs={"scale": 0.5})
    assert "no LoRA is loaded" in caplog.text
    for part, target in ((pipe.transformer, "to_q"), (pipe.connector, "q_proj"), (pipe.vlm, "q_proj")):
        part.add_adapter(LoraConfig(r=2, target_modules=[target], init_lora_weights=False))
    full = draw(pipe)
    half = draw(pipe, joint_attention_kwargs={"scale": 0.5})
    assert (draw(pipe, joint_attention_kwargs={"scale": 0.0}) - plain).abs().max() < 1e-5
    assert not torch.allclose(half, full)
    assert torch.equal(draw(pipe), full), "the strength is as it was before the call"
    for part in (pipe.transformer, pipe.connector, pipe.vlm):
        for layer in part.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.scaling.update({name: 0.5 * value for name, value in layer.scaling.items()})
    assert (draw(pipe) - half).abs().max() < 1e-6


# --- callbacks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "callback"), [("drawing", SDCFGCutoffCallback), ("edit", SD3CFGCutoffCallback)]
)
def test_official_cutoff_callbacks_end_guidance(pipe: DeepGenPipeline, kind: str, callback: Any) -> None:
    """Of several samples too, where diffusers' callback keeps one row."""

    def end(pipe: DeepGenPipeline, step: int, timestep: Tensor, tensors: dict) -> dict:
        if step == 1:
            pipe._guidance_scale = 0.0
        return {}

    cutoff = callback(cutoff_step_ratio=None, cutoff_step_index=1)
    expected = draw(pipe, kind, callback_on_step_end=end)
    assert not torch.equal(expected, draw(pipe, kind))
    for given in (cutoff, MultiPipelineCallbacks([cutoff])):
        assert (draw(pipe, kind, callback_on_step_end=given) - expected).abs().max() < 1e-5
    assert not pipe.do_classifier_free_guidance
    assert torch.isfinite(draw(pipe, kind, guidance_scale=1.0, callback_on_step_end=cutoff)).all()


def test_guidance_follows_the_callback(pipe: DeepGenPipeline) -> None:
    def raise_it(pipe: DeepGenPipeline, step: int, timestep: Tensor, tensors: dict) -> dict:
        pipe._guidance_scale += 1.0
        return tensors

    changed = draw(pipe, guidance_scale=2.0, callback_on_step_end=raise_it)
    assert pipe.guidance_scale == 5.0
    assert not torch.equal(changed, draw(pipe, guidance_scale=2.0))
    with pytest.raises(ValueError, match="there is no negative branch"):
        draw(pipe, guidance_scale=1.0, callback_on_step_end=raise_it)


def test_guidance_may_pause_and_go_on(pipe: DeepGenPipeline) -> None:
    def pause(pipe: DeepGenPipeline, step: int, timestep: Tensor, tensors: dict) -> dict:
        pipe._guidance_scale = 1.0 if step == 0 else 4.0
        return {}

    paused = draw(pipe, guidance_scale=4.0, callback_on_step_end=pause)
    assert not torch.equal(paused, draw(pipe, guidance_scale=4.0))


def test_a_callback_brings_its_own_tensor_inputs(pipe: DeepGenPipeline) -> None:
    class Look:
        tensor_inputs = ["prompt_embeds"]
        seen: list[dict[str, tuple[int, ...]]] = []

        def __call__(self, pipe: DeepGenPipeline, step: int, timestep: Tensor, tensors: dict) -> dict:
            self.seen.append({name: tuple(value.shape) for name, value in tensors.items()})
            return {}

    draw(pipe, callback_on_step_end=Look())
    assert [list(seen) for seen in Look.seen] == [["prompt_embeds"]] * 3
    assert Look.seen[0]["prompt_embeds"][0] == 4


def test_rows_that_fit_no_branch_are_refused(pipe: DeepGenPipeline) -> None:
    def three(pipe: DeepGenPipeline, step: int, timestep: Tensor, tensors: dict) -> dict:
        return {"prompt_embeds": tensors["prompt_embeds"][:3]}

    with pytest.raises(ValueError, match=r"prompt_embeds of 3 rows, expected 4 .* or 2 \(positive\)"):
        draw(pipe, callback_on_step_end=three, callback_on_step_end_tensor_inputs=["prompt_embeds"])


# --- caches -------------------------------------------------------------------------------------------------


def broadcast(pipe: DeepGenPipeline) -> PyramidAttentionBroadcastConfig:
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 1001),
        current_timestep_callback=lambda: pipe.current_timestep,
    )


def faster(pipe: DeepGenPipeline, **options: Any) -> FasterCacheConfig:
    given = {"tensor_format": "BCHW", "unconditional_batch_timestep_skip_range": (-1, 1001), **options}
    return FasterCacheConfig(
        spatial_attention_timestep_skip_range=(-1, 950),  # without guidance it must begin outside
        unconditional_batch_skip_range=2,
        current_timestep_callback=lambda: pipe.current_timestep,
        **given,
    )


@pytest.mark.parametrize(
    ("kind", "make", "preset"),
    [
        ("drawing", broadcast, "exact"),
        ("edit", broadcast, "fast"),
        ("edit", faster, "exact"),
        ("drawing", faster, "fast"),
    ],
)
def test_caches_that_count_calls(pipe: DeepGenPipeline, kind: str, make: Any, preset: str) -> None:
    """Another picture than without, the same in a second call, and gone when disabled."""
    expected = draw(pipe, kind, preset=preset)
    pipe.transformer.enable_cache(make(pipe))
    cached = draw(pipe, kind, preset=preset)
    assert 0 < (cached - expected).abs().mean() < expected.abs().mean()
    assert torch.equal(draw(pipe, kind, preset=preset), cached)
    pipe.transformer.disable_cache()
    assert torch.equal(draw(pipe, kind, preset=preset), expected)


@pytest.mark.parametrize("make", [broadcast, faster])
def test_a_cached_sample_does_not_depend_on_its_neighbours(pipe: DeepGenPipeline, make: Any) -> None:
    pipe.transformer.enable_cache(make(pipe))
    pair = draw(pipe, "edit")
    alone = draw(pipe, "edit", num_images_per_prompt=1)
    assert (pair[:1] - alone).abs().max() < 2e-5


def test_the_hook_alone_is_noticed(pipe: DeepGenPipeline) -> None:
    """`apply_pyramid_attention_broadcast`, as its docstring shows it, leaves no cache config."""
    apply_pyramid_attention_broadcast(pipe.transformer, broadcast(pipe))
    first = draw(pipe)
    assert torch.equal(draw(pipe), first)
    with pytest.raises(ValueError, match="PyramidAttentionBroadcast reads both branches"):
        draw(pipe, guidance_batching="split")


def test_memory_is_not_asked_where_branches_must_run_together(pipe: DeepGenPipeline, monkeypatch) -> None:
    pipe.transformer.enable_cache(broadcast(pipe))
    expected = draw(pipe)
    monkeypatch.setattr("deepgen.denoising.free_bytes", lambda _: 0)
    assert torch.equal(draw(pipe), expected)


def test_guidance_may_end_under_pyramid_attention_broadcast(pipe: DeepGenPipeline) -> None:
    pipe.transformer.enable_cache(broadcast(pipe))
    cutoff = SD3CFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    assert torch.isfinite(draw(pipe, callback_on_step_end=cutoff)).all()


def test_faster_cache_without_guidance(pipe: DeepGenPipeline) -> None:
    pipe.transformer.enable_cache(faster(pipe))
    cutoff = SD3CFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    for options in ({"guidance_scale": 1.0}, {"callback_on_step_end": cutoff}):
        with pytest.raises(ValueError, match="FasterCache predicts the negative branch"):
            draw(pipe, **options)
    pipe.transformer.disable_cache()
    pipe.transformer.enable_cache(faster(pipe, is_guidance_distilled=True))
    assert torch.isfinite(draw(pipe, guidance_scale=1.0)).all()


def test_caches_that_do_not_fit_are_refused_by_name(pipe: DeepGenPipeline) -> None:
    from diffusers.hooks import SeaCacheConfig, TextKVCacheConfig

    for config in (SeaCacheConfig(), TextKVCacheConfig()):
        with pytest.raises(ValueError, match=f"{type(config).__name__} is not made for this model"):
            pipe.transformer.enable_cache(config)
    with pytest.raises(ValueError, match="give tensor_format='BCHW'"):
        pipe.transformer.enable_cache(faster(pipe, tensor_format="BCFHW"))
    with pytest.raises(ValueError, match=r"current_timestep_callback=lambda: pipe\.current_timestep"):
        pipe.transformer.enable_cache(FasterCacheConfig(tensor_format="BCHW"))
    assert not pipe.transformer.is_cache_enabled


def test_a_scheduler_with_its_own_spacing_takes_no_sigmas(pipe: DeepGenPipeline) -> None:
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, **flow)
    assert torch.isfinite(draw(pipe, sigmas=[1.0, 0.6, 0.2])).all()
    from diffusers import DPMSolverMultistepScheduler

    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, **flow)
    with pytest.raises(ValueError, match="takes no sigmas"):
        draw(pipe, sigmas=[1.0, 0.6, 0.2])
