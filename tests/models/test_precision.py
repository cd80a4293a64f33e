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
