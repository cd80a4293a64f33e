"""What is faster in the vision tower gives the library's numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as library

from deepgen.models import vision_tower
from deepgen.models.fused import has_kernel
from deepgen.models.vision_tower import GatedFeedForward, PatchProduct, rotate
from deepgen.models.windows import WindowAttention
from deepgen.pipeline import DeepGenPipeline

TOLERANCE = {
    torch.float32: 1e-5,
    torch.bfloat16: 2e-2,
}  # of bfloat16: a few last places
OURS = {
    PatchProduct: library.Qwen2_5_VisionPatchEmbed,
    GatedFeedForward: library.Qwen2_5_VLMLP,
    WindowAttention: library.Qwen2_5_VLVisionAttention,
}


def as_the_library(tower: nn.Module) -> nn.Module:
    """A copy that computes by the library's own code."""
    plain = copy.deepcopy(tower)
    for layer in plain.modules():
        layer.__class__ = OURS.get(type(layer), type(layer))  # pyright: ignore
    return plain


def apart(ours: Tensor, other: Tensor) -> float:
    return float((ours.float() - other.float()).norm() / other.float().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_tower_gives_the_librarys_features(pipe: DeepGenPipeline, dtype: torch.dtype) -> None:
    tower = copy.deepcopy(pipe.vlm.visual).to(dtype)
    kinds = {type(layer) for layer in tower.modules()}
    assert kinds >= set(OURS)
    assert not kinds & set(OURS.values())  # nothing is left to the library by oversight
    plain = as_the_library(tower)
    torch.manual_seed(0)
    grid = torch.tensor([[1, 8, 12], [1, 4, 4]])
    width = plain.patch_embed.proj.weight[0].numel()  # pyright: ignore
    patches = torch.randn(int(grid.prod(1).sum()), width).to(dtype)
    with torch.no_grad():
        ours, theirs = (one(patches, grid_thw=grid).pooler_output for one in (tower, plain))
    assert apart(ours, theirs) < TOLERANCE[dtype]


def test_what_is_saved_keeps_its_names_and_shapes(pipe: DeepGenPipeline) -> None:
    tower = pipe.vlm.visual
    assert {name: value.shape for name, value in tower.state_dict().items()} == {
        name: value.shape for name, value in as_the_library(tower).state_dict().items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [20, 80])
def test_rotation_is_the_librarys(dtype: torch.dtype, width: int) -> None:
    torch.manual_seed(1)
    query, key = torch.randn(2, 24, 3, width).to(dtype)
    angles = torch.rand(24, width // 2).repeat(1, 2) * 6
    before = query.clone()
    ours = rotate(query, key, angles.cos(), angles.sin())
    theirs = library.apply_rotary_pos_emb_vision(query, key, angles.cos(), angles.sin())
    assert torch.equal(query, before)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == dtype
        assert apart(one, other) < TOLERANCE[dtype] / 4


def feed_forward(dtype: torch.dtype) -> library.Qwen2_5_VLMLP:
    torch.manual_seed(2)
    config = library.Qwen2_5_VLVisionConfig(hidden_size=40, intermediate_size=105, hidden_act="silu")  # pyright: ignore
    return library.Qwen2_5_VLMLP(config, bias=True).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_feed_forward_is_fused_and_the_same(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_kernel(dtype):
        pytest.skip("this CPU has no such operation")
    layer = feed_forward(dtype)
    x = torch.randn(33, 40).to(dtype)
    with torch.no_grad():
        theirs = layer(x)
        vision_tower.compute_faster(layer)
        assert type(layer) is GatedFeedForward
        with monkeypatch.context() as changed:
            changed.setattr(layer.gate_proj, "forward", lambda _: pytest.fail("not fused"), raising=False)
            changed.setattr(vision_tower, "is_called_plainly", lambda _: True)
            ours = layer(x)
    assert apart(ours, theirs) < TOLERANCE[dtype]


def test_hooks_adapters_and_gradients_go_the_librarys_way() -> None:
    layer = feed_forward(torch.float32)
    vision_tower.compute_faster(layer)
    x = torch.randn(5, 40)
    seen = []
    handle = layer.up_proj.register_forward_hook(lambda *_: seen.append("hook"))
    with torch.no_grad():
        layer(x)
    handle.remove()
    layer(x).sum().backward()
    assert seen == ["hook"]
    assert layer.gate_proj.weight.grad is not None


def test_a_hook_on_the_patch_embedding_is_called(pipe: DeepGenPipeline) -> None:
    embed = copy.deepcopy(pipe.vlm.visual.patch_embed)
    seen = []
    embed.proj.register_forward_pre_hook(lambda *_: seen.append("hook"))
    embed(torch.randn(4, embed.proj.weight[0].numel()))
    assert seen == ["hook"]
