"""Bytes of a file as a tensor."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from deepgen.models.errors import CheckpointError


def as_bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]


def read_span(path: Path, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A fresh tensor of what lies at `offset` bytes. CheckpointError when the file ends before."""
    tensor = torch.empty(shape, dtype=dtype)
    read_into(tensor, path, offset)
    return tensor


def read_into(tensor: Tensor, path: Path, offset: int) -> None:
    """Fill a contiguous tensor with what lies at `offset` bytes."""
    if not tensor.numel():
        return
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        view = as_bytes(tensor)
        while view:
            count = file.readinto(view)
            if not count:
                raise CheckpointError(f"{path} ended while reading; it changed or is truncated")
            view = view[count:]


def all_finite(value: Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity; looked at in pieces, because isfinite copies."""
    if not value.is_floating_point():
        return True
    pieces = value.reshape(-1).split(1 << 22)
    if value.dtype.itemsize == 1:  # float8 has no such test of its own
        pieces = (piece.float() for piece in pieces)
    return all(bool(torch.isfinite(piece).all()) for piece in pieces)
