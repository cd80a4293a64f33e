"""Narrow weights, wide arithmetic."""

from __future__ import annotations

import torch
from PIL import Image
from torch import nn

from deepgen.models.precision import compute_in_float32
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


def test_a_trained_linear_gets_its_gradient() -> None:
    layer = nn.Sequential(nn.Linear(4, 3))
    compute_in_float32(layer)
    layer(torch.randn(2, 4, requires_grad=True)).sum().backward()
    assert layer[0].weight.grad is not None
    assert layer[0].bias.grad is not None
