"""Weights in 16 bits, arithmetic in 32: for processors without 16-bit instructions.

A 5B model fits a laptop's memory in bfloat16 only, but many CPUs multiply bfloat16 several times slower than
float32, and the product that passes gradients back even hundreds of times. So linear layers keep their
weights in bfloat16 and widen them one at a time, forwards and backwards; what is small is float32 throughout.
diffusers' layerwise casting does the former only.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def compute_in_float32(module: nn.Module) -> None:
    """Keep the weights of linears and embeddings as stored, and make everything else float32, in place.

    The module then takes and gives float32; memory grows by its largest single layer while it runs. Not for
    the VAE, whose decoder asks its weights for their type, and which is small: make that float32 as a whole.
    """
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.forward = partial(_linear, layer)
            continue
        if type(layer).__name__ == "GGUFLinear":  # diffusers' own, which widens its weight by itself
            layer.compute_dtype = torch.float32  # pyright: ignore[reportAttributeAccessIssue]
            continue
        if type(layer) is nn.Embedding:
            layer.register_forward_hook(_widen_output)
            continue
        for name, parameter in layer.named_parameters(recurse=False):
            setattr(layer, name, nn.Parameter(parameter.data.float(), requires_grad=parameter.requires_grad))
        for name, buffer in layer.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(layer, name, buffer.float())


def is_widened(layer: nn.Module) -> bool:
    """Whether `compute_in_float32` has this linear layer widen its weights at each call."""
    return getattr(vars(layer).get("forward"), "func", None) is _linear


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    if layer.weight.requires_grad or not x.requires_grad:
        return F.linear(x, layer.weight.to(x.dtype), bias)
    product = _WidenedProduct.apply(x, layer.weight)
    return product if bias is None else product + bias


def _widen_output(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.float()


class _WidenedProduct(torch.autograd.Function):
    """x W^T, keeping the narrow weight instead of the wide one for the backward; only x gets a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return F.linear(x, weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return gradients[0] @ weight.to(gradients[0].dtype), None
