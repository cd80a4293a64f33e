"""Tensors from the host to an accelerator and back, with as few waits as there can be.

A copy from ordinary memory is not queued behind the work of a CUDA device: the host waits until all of that
work is done, however small the tensor. From page-locked memory the copy is queued like any kernel. The way
back cannot be had without a wait, as the host wants to read what arrives; so all that is read goes in one
copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str | None, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor on the device, in another number format if one is given; the host does not wait for a copy.

    The tensor must not be written to afterwards, as the copy may still be under way.
    """
    place = tensor.device if device is None else torch.device(device)
    if place.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory().to(place, non_blocking=True)
    return tensor.to(device=place, dtype=dtype)


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """All these tensors on the host, of whatever shapes and number formats, for one wait.

    Those that are there already are returned as they are.
    """
    away = [n for n, tensor in enumerate(tensors) if tensor.device.type != "cpu"]
    arrived = list(tensors)
    if not away:
        return arrived
    content = torch.cat([_as_bytes(tensors[n]) for n in away]).cpu()
    sizes = [tensors[n].numel() * tensors[n].element_size() for n in away]
    for n, piece in zip(away, content.split(sizes), strict=True):
        # A copy begins at an address that fits its numbers.
        arrived[n] = piece.clone().view(tensors[n].dtype).reshape(tensors[n].shape)
    return arrived


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
