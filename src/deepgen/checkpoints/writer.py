"""Writing safetensors shards from tensors that are read one at a time.

The header is known before any tensor is read, so it is written first and the data streams after it: a folder
of any size is written in the memory of its largest tensor.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepgen.checkpoints.spans import all_finite
from deepgen.checkpoints.tensors import SAFETENSORS_DTYPES, LazyTensor, as_bytes
from deepgen.models.errors import CheckpointError

_DTYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
Progress = Callable[[int], Any]


@dataclass(frozen=True)
class Written:
    """One finished file."""

    path: Path
    nbytes: int
    sha256: str
    tensors: int = 0


def parse_size(text: str | int) -> int:
    """Bytes of "4GB", "500MB", "1GiB" or a plain number."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?b?)\s*", str(text), re.IGNORECASE)
    unit = match.group(2).upper() if match else None
    if match is None or unit not in _UNITS or float(match.group(1)) <= 0:
        raise ValueError(f"size {text!r} is not understood; write it like 4GB, 500MB or 1GiB")
    return int(float(match.group(1)) * _UNITS[unit])


def target_dtype(tensor: LazyTensor, dtype: torch.dtype | None) -> torch.dtype:
    """What a tensor is written as: only floating point numbers are cast."""
    return dtype if dtype is not None and tensor.dtype.is_floating_point else tensor.dtype


def written_bytes(tensors: Mapping[str, LazyTensor], dtype: torch.dtype | None) -> int:
    """Bytes of the data of these tensors once written."""
    return sum(tensor.numel * target_dtype(tensor, dtype).itemsize for tensor in tensors.values())


def write_shards(
    folder: Path,
    stem: str,
    tensors: Mapping[str, LazyTensor],
    *,
    dtype: torch.dtype | None = None,
    shard_size: int,
    progress: Progress = lambda nbytes: None,
) -> list[Written]:
    """Write `stem.safetensors`, or numbered shards of at most `shard_size` bytes of data and their index.

    A tensor larger than `shard_size` gets a shard of its own. `progress` is called with the bytes of each
    tensor.
    """
    shards: list[dict[str, LazyTensor]] = [{}]
    room = shard_size
    for name, tensor in tensors.items():
        nbytes = tensor.numel * target_dtype(tensor, dtype).itemsize
        if nbytes > room and shards[-1]:
            shards.append({})
            room = shard_size
        shards[-1][name] = tensor
        room -= nbytes
    if len(shards) == 1:
        return [write_file(folder / f"{stem}.safetensors", tensors, dtype=dtype, progress=progress)]
    written, weight_map = [], {}
    for number, shard in enumerate(shards, start=1):
        path = folder / f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        written.append(write_file(path, shard, dtype=dtype, progress=progress))
        weight_map |= dict.fromkeys(shard, path.name)
    index = {"metadata": {"total_size": written_bytes(tensors, dtype)}, "weight_map": weight_map}
    index_path = folder / f"{stem}.safetensors.index.json"
    index_path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return written


def write_file(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    *,
    dtype: torch.dtype | None = None,
    progress: Progress = lambda nbytes: None,
) -> Written:
    """Write one safetensors file; widest types first, so that every tensor is aligned to its type."""
    order = sorted(tensors, key=lambda name: (-target_dtype(tensors[name], dtype).itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        kind = target_dtype(tensors[name], dtype)
        start, end = end, end + tensors[name].numel * kind.itemsize
        header[name] = {
            "dtype": _DTYPE_NAMES[kind],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:

        def emit(data: bytes | memoryview) -> None:
            file.write(data)
            digest.update(data)
            progress(len(data))

        emit(struct.pack("<Q", len(text)) + text)
        for name in order:
            emit(
                _read(tensors[name], dtype)
            )  # passed straight on, so that it is gone before the next is read
    return Written(path, path.stat().st_size, digest.hexdigest(), len(order))


def _read(tensor: LazyTensor, dtype: torch.dtype | None) -> memoryview:
    kind = target_dtype(tensor, dtype)
    value = tensor.read().to(kind).contiguous()
    if not all_finite(value):
        narrowed = "" if kind == tensor.dtype else f", or becomes so in {str(kind).removeprefix('torch.')}"
        raise CheckpointError(
            f"{tensor.name} of {tensor.origin} holds NaN or infinite numbers{narrowed}; nothing was written. "
            "`deepgen verify` names every such tensor"
        )
    return as_bytes(value)
