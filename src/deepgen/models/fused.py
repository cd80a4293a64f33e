"""A linear layer and the GELU after it as one operation, on CPUs where oneDNN has it.

The activation is applied to the sums while they are in registers, or in the cache where a weight is widened
in parts: the widest tensor of a block is written once instead of written, read and written again, and it is
rounded once, after the activation. The numbers are the same up to rounding, not bit for bit: it is for
drawing, where no other pass has to be reproduced bit for bit.
"""

from __future__ import annotations

from functools import cache

import torch
from diffusers.models.activations import GELU
from torch import Tensor, nn

from deepgen.models.precision import is_widened, widened_product

_DTYPES = (torch.float32, torch.bfloat16)


def feed_forward(mlp: nn.Module, x: Tensor) -> Tensor:
    """diffusers' feed-forward of x (B, S, D): the same numbers up to rounding."""
    layers = list(getattr(mlp, "net", ()))
    if not layers or not _is_fusable(mlp, layers[0], x):
        return mlp(x)
    first, proj = layers[0], layers[0].proj
    if proj.weight.dtype == x.dtype:
        x = torch.ops.mkldnn._linear_pointwise(x, proj.weight, proj.bias, "gelu", [], first.approximate)
    else:
        x = widened_product(x, proj.weight, proj.bias, first.approximate)
    for layer in layers[1:]:
        x = layer(x)
    return x


def _is_fusable(mlp: nn.Module, first: nn.Module, x: Tensor) -> bool:
    """Whether nothing stands between the weights and the product: no adapter, hook, gradient or quantised
    weight.
    """
    if not isinstance(first, GELU) or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    proj = first.proj
    return (
        x.device.type == "cpu"
        and x.dtype in _DTYPES
        and all(is_called_plainly(module) for module in (mlp, first, proj))
        and type(proj) is nn.Linear
        and all(type(tensor) is nn.Parameter for tensor in (proj.weight, proj.bias))
        and (proj.weight.dtype == proj.bias.dtype == x.dtype or is_widened(proj))
        and has_kernel(x.dtype)
    )


def is_called_plainly(module: nn.Module) -> bool:
    """Whether calling the module is its class's own `forward`, which may be widened, and nothing else."""
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    return "forward" not in vars(module) or is_widened(module)


@cache
def has_kernel(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies such numbers and applies a function to the product in one operation."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
