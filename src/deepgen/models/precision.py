"""Arithmetic in 32 bits on weights stored in 16, for processors without 16-bit instructions.

A 5B model fits a laptop's memory in bfloat16 only, but many CPUs multiply bfloat16 several times slower than
float32, and the product that passes gradients back even hundreds of times. So linear layers keep their
weights in bfloat16 and widen them a few rows at a time, which are multiplied while they are in the cache;
backwards, one weight at a time. What is small is float32 throughout. diffusers' layerwise casting does the
former only, a whole weight at a time.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CHUNK = 256  # features that are widened and multiplied at once
_FEW = 64  # rows below which reading the weights is all there is


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it (AVX512-BF16 or AMX), with which it is faster than float32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


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
    weight, bias = layer.weight, layer.bias
    is_trained = torch.is_grad_enabled() and weight.requires_grad
    if weight.dtype == x.dtype or is_trained or torch.compiler.is_compiling():
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    return _WidenedProduct.apply(x, weight, bias)


def widened_product(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: str | None = None) -> Tensor:
    """x W^T + b, and the GELU of it if asked for; without gradient.

    Args:
        x: (..., K).
        weight: (N, K), narrower than x.
        bias: (N,) or None.
        gelu: its approximation, "tanh" or "none"; None leaves the sums as they are.
    """
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) < _FEW:
        y = F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
        return y if gelu is None else F.gelu(y, approximate=gelu)
    y = rows.new_empty(len(rows), len(weight))
    wide = rows.new_empty(min(_CHUNK, len(weight)), weight.shape[1])
    for start in range(0, len(weight), _CHUNK):
        features = slice(start, start + _CHUNK)
        some = wide[: len(weight[features])].copy_(weight[features]).t()
        part = y[:, features]
        if bias is None:
            torch.mm(rows, some, out=part)
        else:
            torch.addmm(bias[features].to(x.dtype), rows, some, out=part)
        if gelu is not None:
            torch.ops.aten.gelu_(part, approximate=gelu)
    return y.view(*x.shape[:-1], len(weight))


def _widen_output(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.float()


class _WidenedProduct(torch.autograd.Function):
    """x W^T + b, keeping the narrow weight instead of the wide one for the backward; W gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return widened_product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor | None]:
        (weight,) = ctx.saved_tensors
        of_bias = None
        if ctx.needs_input_grad[2]:
            of_bias = gradients[0].flatten(0, -2).sum(0).to(ctx.bias_dtype)
        return gradients[0] @ weight.to(gradients[0].dtype), None, of_bias
