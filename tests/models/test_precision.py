"""Narrow weights, wide arithmetic."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from deepgen.models.precision import compute_in_float32, widened_product
from deepgen.pipeline import DeepGenPipeline


def test_weights_stay_narrow_and_the_picture_is_that_of_rounded_weights(
    pipe: DeepGenPipeline, fresh_pipe: DeepGenPipeline
) -> None:
    for part in ("vlm", "connector", "transformer"):
        getattr(pipe, part).to(torch.bfloat16)
        compute_in_float32(getattr(pipe, part))
        for layer in getattr(fresh_pipe, part).modules():  # the same rounding, computed plainly
            for parameter in layer.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16().float()
            for buffer in layer.buffers(recurse=False):
                if buffer.is_floating_point():
                    buffer.data = buffer.data.bfloat16().float()
    linear = pipe.transformer.transformer_blocks[0].attn.to_q
    assert isinstance(linear, nn.Linear)
    for image in (None, Image.new("RGB", (64, 64), (200, 30, 30))):
        ours = pipe("a cat", image=image, seed=1, output_type="pt").images
        assert linear.weight.dtype == torch.bfloat16
        expected = fresh_pipe("a cat", image=image, seed=1, output_type="pt").images
        assert (ours - expected).abs().max() < 1e-4


def test_gradients_pass_through_narrow_weights_as_through_rounded_ones() -> None:
    torch.manual_seed(0)
    narrow = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 4), nn.LayerNorm(4)).to(torch.bfloat16)
    wide = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 4), nn.LayerNorm(4))
    wide.load_state_dict(narrow.state_dict())
    compute_in_float32(narrow.requires_grad_(False))
    inputs = torch.randn(3, 8, requires_grad=True)
    ids = torch.arange(3)
    (ours,) = torch.autograd.grad(narrow[1:](inputs + narrow[0](ids)).square().sum(), inputs)
    (expected,) = torch.autograd.grad(wide[1:](inputs + wide[0](ids)).square().sum(), inputs)
    assert narrow[1].weight.dtype == narrow[0].weight.dtype == torch.bfloat16
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("rows", [1, 63, 64, 300])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("gelu", [None, "tanh", "none"])
def test_a_weight_widened_in_parts_gives_the_product_of_the_whole(
    rows: int, has_bias: bool, gelu: str | None
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(600, 32).bfloat16()  # two whole parts and a rest
    bias = torch.randn(600).bfloat16() if has_bias else None
    x = torch.randn(rows, 2, 32)[:, 1]  # not contiguous
    expected = F.linear(x, weight.float(), None if bias is None else bias.float())
    if gelu is not None:
        expected = F.gelu(expected, approximate=gelu)
    torch.testing.assert_close(widened_product(x, weight, bias, gelu), expected, atol=2e-6, rtol=1e-5)
    batched = widened_product(x.expand(2, 3, rows, 32), weight, bias, gelu)
    torch.testing.assert_close(batched, expected.expand(2, 3, rows, 600), atol=2e-6, rtol=1e-5)


def test_a_frozen_narrow_layer_gives_the_same_bits_with_and_without_gradient() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(32, 600)).to(torch.bfloat16)
    compute_in_float32(layer)
    layer[0].weight.requires_grad_(False)
    x = torch.randn(100, 32, requires_grad=True)
    found = layer(x)
    with torch.no_grad():
        assert torch.equal(found, layer(x))
    gradients = torch.autograd.grad(found.sin().sum(), [x, layer[0].bias])
    expected = F.linear(x, layer[0].weight.float(), layer[0].bias.float())
    for ours, plain in zip(
        gradients, torch.autograd.grad(expected.sin().sum(), [x, layer[0].bias]), strict=True
    ):
        torch.testing.assert_close(
            ours, plain, atol=1e-4, rtol=1e-2 if ours.dtype == torch.bfloat16 else 1e-5
        )


def test_a_trained_linear_gets_its_gradient() -> None:
    layer = nn.Sequential(nn.Linear(4, 3))
    compute_in_float32(layer)
    layer(torch.randn(2, 4, requires_grad=True)).sum().backward()
    assert layer[0].weight.grad is not None
    assert layer[0].bias.grad is not None
