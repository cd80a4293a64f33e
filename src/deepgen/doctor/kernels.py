"""Products, attention, convolution and normalisation at the sizes of the 5B model.

The embedded model is so narrow that a device computes it with other kernels than the real one: attention with
64 channels a head over a thousand tokens takes another path than with 32 over thirty. So each of these is
computed once on the device, and compared with float64 on the processor in the rows that are looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SEED = 20

# R rows, H heads, L tokens, E channels a head, C channels of a map


@dataclass(frozen=True)
class KernelCheck:
    """One operation.

    Attributes:
        name: in the report.
        make: its inputs, float32 on the processor, from a generator.
        run: what the device computes of them.
        looked_at: of a result, the values that are compared.
        convolves: see `PartCheck`.
    """

    name: str
    make: Callable[[torch.Generator], list[Tensor]]
    run: Callable[..., Tensor]
    looked_at: Callable[[Tensor], Tensor]
    convolves: bool = False


def _normal(generator: torch.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    """Numbers that every format has exactly."""
    drawn = (torch.randn(shape, generator=generator) * scale).bfloat16().float()
    return torch.where(drawn.abs() < 1e-3, torch.zeros(()), drawn)


def _tokens(heads: int, length: int, channels: int) -> Callable[[torch.Generator], list[Tensor]]:
    return lambda generator: [_normal(generator, 1, heads, length, channels) for _ in "qkv"]


def _masked(generator: torch.Generator) -> list[Tensor]:
    """As the VLM masks a padded row: causal, and the first tokens are pads that see nothing."""
    length, pads = 192, 40
    real = torch.arange(length) >= pads
    mask = torch.ones(length, length, dtype=torch.bool).tril() & real[None] & real[:, None]
    return [*(_normal(generator, 1, 4, length, 128) for _ in "qkv"), mask[None, None]]


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


KERNELS = (
    KernelCheck(
        "matrix product",
        lambda generator: [
            _normal(generator, 128, 1536),
            _normal(generator, 1536, 1536, scale=0.02),
        ],
        F.linear,
        lambda y: y[::16],
    ),
    KernelCheck("attention, 64", _tokens(2, 1024, 64), _attend, lambda y: y[:, :, ::64]),
    KernelCheck("attention, 80", _tokens(4, 256, 80), _attend, lambda y: y[:, :, ::16]),
    KernelCheck("attention, masked", _masked, _attend, lambda y: y[:, :, ::8]),
    KernelCheck(
        "convolution",
        lambda generator: [
            _normal(generator, 1, 256, 16, 16),
            _normal(generator, 256, 256, 3, 3, scale=0.02),
        ],
        lambda x, weight: F.conv2d(x, weight, padding=1),
        lambda y: y[:, ::32],
        convolves=True,
    ),
    KernelCheck(
        "normalisation",
        lambda generator: [_normal(generator, 1, 128, 64, 64) + 3],
        lambda x: F.silu(F.group_norm(x, 32)),
        lambda y: y[:, ::8, ::4, ::4],
    ),
)


def inputs_of(check: KernelCheck) -> list[Tensor]:
    """The same in every process with this PyTorch."""
    return check.make(torch.Generator().manual_seed(SEED))


def placed(inputs: list[Tensor], device: str, dtype: torch.dtype) -> list[Tensor]:
    """Inputs on a device in a number format; masks stay boolean."""
    return [x.to(device) if x.dtype == torch.bool else x.to(device=device, dtype=dtype) for x in inputs]


def reference(check: KernelCheck, inputs: list[Tensor]) -> Tensor:
    """What is right, in float64."""
    return check.looked_at(check.run(*placed(inputs, "cpu", torch.float64)))
