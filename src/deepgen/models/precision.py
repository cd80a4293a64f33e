"""Weights in 16 bits, arithmetic in 32: for processors without 16-bit instructions.

A 5B model fits a laptop's memory in bfloat16 only, but many CPUs multiply bfloat16 several times slower than
float32. So every large layer keeps its weights in bfloat16 and widens them while it runs; what is small is
float32 throughout.
"""

from __future__ import annotations

import torch
from diffusers.hooks import apply_layerwise_casting
from torch import nn

# Layers whose weights are worth keeping narrow; diffusers casts exactly these while they run.
LARGE_LAYERS = (nn.Linear, nn.Conv2d)


def compute_in_float32(module: nn.Module) -> None:
    """Keep the weights of linears and convolutions as stored, and make everything else float32, in place.

    The module then takes and gives float32; memory grows by its largest single layer while it runs. Not for
    the VAE, whose decoder asks its weights for their type, and which is small: make that float32 as a whole.
    """
    storage = next(x.dtype for x in module.parameters() if x.is_floating_point())
    for layer in module.modules():
        if isinstance(layer, LARGE_LAYERS):
            continue
        for name, parameter in layer.named_parameters(recurse=False):
            setattr(layer, name, nn.Parameter(parameter.data.float(), requires_grad=parameter.requires_grad))
        for name, buffer in layer.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(layer, name, buffer.float())
    apply_layerwise_casting(
        module, storage_dtype=storage, compute_dtype=torch.float32, skip_modules_pattern=None
    )
