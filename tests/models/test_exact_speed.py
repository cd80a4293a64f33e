"""What makes a step faster changes no number: every shortcut against the plain way."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch
from diffusers.models.attention import JointTransformerBlock
from PIL import Image
from torch import Tensor

from deepgen.models.attention import JointAttentionProcessor
from deepgen.models.blocks import FinalJointBlock, JointBlock
from deepgen.pipeline import DeepGenPipeline
from deepgen.sampling.step_cache import StepCache

FLOAT = 2e-6  # relative: other orders of the same float32 sums


def close(ours: Tensor, expected: Tensor) -> bool:
    return bool((ours - expected).norm() <= FLOAT * expected.norm())


def block_inputs(width: int = 64) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "hidden_states": torch.randn(2, 24, width),
        "encoder_hidden_states": torch.randn(2, 5, width),
        "temb": torch.randn(2, width),
    }


def make_blocks(is_final: bool, is_dual: bool) -> tuple[JointTransformerBlock, JointBlock]:
    """diffusers' block and ours, the same weights."""
    options = {
        "dim": 64,
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "context_pre_only": is_final,
        "qk_norm": "rms_norm",
        "use_dual_attention": is_dual,
    }
    torch.manual_seed(0)
    stock = JointTransformerBlock(**options)
    for parameter in stock.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours = (FinalJointBlock if is_final else JointBlock)(**options)
    ours.load_state_dict(stock.state_dict())
    for module in (ours.attn, ours.attn2):
        if module is not None:
            module.set_processor(JointAttentionProcessor())
    return stock, ours


@pytest.mark.parametrize("is_dual", [False, True])
@pytest.mark.parametrize("is_final", [False, True])
@torch.no_grad()
def test_a_block_computes_what_diffusers_block_computes(is_final: bool, is_dual: bool) -> None:
    stock, ours = make_blocks(is_final, is_dual)
    inputs = block_inputs()
    expected_context, expected = stock(**inputs)
    context, image = ours(**inputs)
    assert close(image, expected)
    if is_final:
        assert context is inputs["encoder_hidden_states"]
    else:
        assert close(context, expected_context)


@pytest.mark.parametrize("is_dual", [False, True])
@torch.no_grad()
def test_the_last_block_gives_the_targets_alone_what_it_gives_them_among_all(is_dual: bool) -> None:
    _, block = make_blocks(True, is_dual)
    inputs = block_inputs()
    _, everything = block(**inputs)
    _, image = block(**inputs, joint_attention_kwargs={"num_targets": 10})
    assert close(image[:, :10], everything[:, :10])
    assert torch.equal(image[:, 10:], inputs["hidden_states"][:, 10:])
    assert not close(everything[:, 10:], inputs["hidden_states"][:, 10:])


@torch.no_grad()
def test_a_block_takes_its_modulation_computed_before() -> None:
    _, block = make_blocks(False, True)
    inputs = block_inputs()
    ready = {**inputs, "temb": block.modulation(inputs["temb"])}
    assert all(close(a, b) for a, b in zip(block(**ready), block(**inputs), strict=True))
    with torch.enable_grad():  # nothing is fused here
        assert all(torch.equal(a, b) for a, b in zip(block(**ready), block(**inputs), strict=True))


def forward_inputs(pipe: DeepGenPipeline) -> dict:
    config = pipe.transformer.config
    torch.manual_seed(1)
    reference = torch.randn(config.in_channels, 4, 8)
    return {
        "hidden_states": torch.randn(2, config.in_channels, 8, 8),
        "encoder_hidden_states": torch.randn(2, 5, config.joint_attention_dim),
        "pooled_projections": torch.randn(2, config.pooled_projection_dim),
        "reference_latents": [[reference], [reference]],
        "return_dict": False,
    }


@pytest.mark.parametrize("budget", [128 * 2**20, 1], ids=["all steps at once", "step by step"])
@torch.no_grad()
def test_a_step_cache_changes_no_velocity(
    pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    monkeypatch.setattr("deepgen.sampling.step_cache.MODULATION_BYTES", budget)
    inputs, timesteps = forward_inputs(pipe), torch.tensor([1000.0, 700.0, 30.0])
    step_cache = StepCache(timesteps)
    for step, timestep in enumerate(timesteps):
        step_cache.step = step
        kept = pipe.transformer(timestep=timestep.expand(2), step_cache=step_cache, **inputs)[0]
        assert close(kept, pipe.transformer(timestep=timestep.expand(2), **inputs)[0])


@torch.no_grad()
def test_a_step_cache_heeds_a_condition_that_changes_on_the_way(pipe: DeepGenPipeline) -> None:
    inputs, timesteps = forward_inputs(pipe), torch.tensor([1000.0, 500.0])
    step_cache = StepCache(timesteps)
    pipe.transformer(timestep=timesteps[:1].expand(2), step_cache=step_cache, **inputs)
    step_cache.step = 1
    changed = {
        name: inputs[name] + 1 if name in ("encoder_hidden_states", "pooled_projections") else inputs[name]
        for name in inputs
    }
    kept = pipe.transformer(timestep=timesteps[1:].expand(2), step_cache=step_cache, **changed)[0]
    assert close(kept, pipe.transformer(timestep=timesteps[1:].expand(2), **changed)[0])


@torch.no_grad()
def test_context_and_references_are_embedded_once_a_run(pipe: DeepGenPipeline) -> None:
    calls = {"context": 0, "modulation": 0, "patches": 0}

    def count(name: str):
        return lambda *_: calls.__setitem__(name, calls[name] + 1)

    pipe.transformer.context_embedder.register_forward_hook(count("context"))
    pipe.transformer.transformer_blocks[0].norm1.linear.register_forward_hook(count("modulation"))
    pipe.transformer.pos_embed.register_forward_hook(count("patches"))
    pipe("make it blue", image=Image.new("RGB", (64, 64), (200, 30, 30)), num_inference_steps=5, seed=1)
    assert calls["context"] == 1
    assert calls["modulation"] == 1
    assert calls["patches"] == 1 + 2 * 5  # the reference once, both branches' targets in each step


def test_with_gradient_every_weight_of_the_last_block_gets_one(pipe: DeepGenPipeline) -> None:
    inputs = forward_inputs(pipe)
    pipe.transformer(timestep=torch.full((2,), 500.0), **inputs)[0].square().mean().backward()
    missing = [name for name, p in pipe.transformer.named_parameters() if p.grad is None]
    assert not missing


@torch.no_grad()
def test_fused_projections_keep_the_mask_and_the_numbers(pipe: DeepGenPipeline) -> None:
    inputs = forward_inputs(pipe)
    inputs["reference_latents"] = [inputs["reference_latents"][0], []]  # the second sample is padded
    plain = pipe.transformer(timestep=torch.full((2,), 500.0), **inputs)[0]
    pipe.transformer.fuse_qkv_projections()
    assert close(pipe.transformer(timestep=torch.full((2,), 500.0), **inputs)[0], plain)
    pipe.transformer.unfuse_qkv_projections()
    assert torch.equal(pipe.transformer(timestep=torch.full((2,), 500.0), **inputs)[0], plain)


# In a process of its own: what the heap of this one has room for depends on the tests before.
FAULTS = """
import resource
from pathlib import Path
from deepgen.models.allocation import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        b"x" * 2**26  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

plain, before = faults(), resident()
with kept_memory():
    b"x" * 2**26
    kept = faults()
    with kept_memory():
        pass
    still_kept, held = faults(), resident() - before
print(plain, kept, still_kept, held, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_kept_memory_is_used_again_and_returned_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
    plain, kept, still_kept, held, held_after = map(int, done.stdout.split())
    assert plain > 100_000
    assert kept < plain / 10
    assert still_kept < plain / 10, "an inner end must not return memory"
    assert held > 2**25
    assert held_after < 2**24


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_references", [0, 1])
def test_a_call_of_its_own_is_bit_for_bit_what_it_is_with_gradient(
    dtype: torch.dtype, num_references: int
) -> None:
    transformer = DeepGenPipeline.from_pretrained("shapes", torch_dtype=dtype).transformer
    latents, context, pooled = (
        torch.randn(shape, generator=torch.Generator().manual_seed(number)).to(dtype)
        for number, shape in enumerate([(3, 4, 12, 12), (3, 40, 128), (3, 128)])
    )
    inputs = {
        "hidden_states": latents,
        "encoder_hidden_states": context,
        "pooled_projections": pooled,
        "timestep": torch.full((3,), 700.0),
        "reference_latents": [[one] * num_references for one in latents],
        "return_dict": False,
    }
    with torch.no_grad():
        drawn = transformer(**inputs)[0]
    assert torch.equal(transformer(**inputs)[0].detach(), drawn)
