"""A linear layer and the GELU after it as one operation, on CPUs where oneDNN has it.

The activation is applied to the sums while they are in registers: the widest tensor of a block is written
once instead of written, read and written again, and it is rounded once, after the activation.
"""

from __future__ import annotations

from functools import cache

import torch
from diffusers.models.activations import GELU
from torch import Tensor, nn

_DTYPES = (torch.float32, torch.bfloat16)


def feed_forward(mlp: nn.Module, x: Tensor) -> Tensor:
    """diffusers' feed-forward of x (B, S, D): the same numbers up to rounding."""
    layers = list(getattr(mlp, "net", ()))
    if not layers or not _is_fusable(mlp, layers[0], x):
        return mlp(x)
    first = layers[0]
    x = torch.ops.mkldnn._linear_pointwise(
        x, first.proj.weight, first.proj.bias, "gelu", [], first.approximate
    )
    for layer in layers[1:]:
        x = layer(x)
    return x


def _is_fusable(mlp: nn.Module, first: nn.Module, x: Tensor) -> bool:
    """Whether nothing stands between the weights and the product: no adapter, hook, gradient or quantised
    weight.
    """
    if not isinstance(first, GELU) or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    weight, bias = first.proj.weight, first.proj.bias
    return (
        x.device.type == "cpu"
        and x.dtype in _DTYPES
        and all(_is_plain(module) for module in (mlp, first, first.proj))
        and type(first.proj) is nn.Linear
        and bias is not None
        and all(type(tensor) is nn.Parameter and tensor.dtype == x.dtype for tensor in (weight, bias))
        and _has_kernel(x.dtype)
    )


def _is_plain(module: nn.Module) -> bool:
    """Whether calling the module is its class's own `forward` and nothing else."""
    return "forward" not in vars(module) and not (module._forward_hooks or module._forward_pre_hooks)


@cache
def _has_kernel(dtype: torch.dtype) -> bool:
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
