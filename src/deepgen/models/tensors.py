"""Tensors of a checkpoint, opened one at a time.

A file is opened as a dictionary of `LazyTensor`: name, shape and dtype come from its header, the numbers only
from `read()`, which seeks and copies. Nothing is memory mapped, so what has been read and dropped does not
count against the process, and a 5B model can be walked through in the memory of its largest tensor. Torch
files are read as data, by `unpickle.py`: what they name is neither imported nor called.
"""

from __future__ import annotations

import json
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepgen.models.spans import CheckpointError, as_bytes, read_span
from deepgen.models.torch_files import StoredTensor, open_tree, state_of

__all__ = ["CheckpointError", "LazyTensor", "as_bytes", "open_file", "open_files", "read_ahead"]

SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
READERS = 4  # threads at most
READ_AHEAD = 2**28  # bytes that are read and not yet taken
LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format itself


@dataclass(frozen=True)
class LazyTensor:
    """One tensor of a file: `read()` returns a fresh copy that belongs to the caller."""

    name: str  # as the file spells it
    shape: tuple[int, ...]
    dtype: torch.dtype
    origin: str  # the file
    read: Callable[[], Tensor]

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


def open_files(paths: Iterable[Path]) -> dict[str, LazyTensor]:
    """The tensors of several files that make one state dict; a name that comes twice is an error."""
    tensors: dict[str, LazyTensor] = {}
    for path in paths:
        for name, tensor in open_file(path).items():
            if name in tensors:
                raise CheckpointError(f"{name} is both in {tensors[name].origin} and in {path}")
            tensors[name] = tensor
    return tensors


def read_ahead(tensors: Mapping[str, LazyTensor], is_pinned: bool = False) -> Iterator[tuple[str, Tensor]]:
    """The tensors in their order, while threads read the next ones.

    A disk is faster than one thread that reads, because fresh memory comes from the system a page at a time.

    Args:
        tensors: by name.
        is_pinned: hand them over in page-locked memory, from which an accelerator copies by itself.
    """
    upcoming, waiting, ahead = iter(tensors.items()), deque[tuple[str, int, Future[Tensor]]](), 0
    pool = ThreadPoolExecutor(min(READERS, os.cpu_count() or 1), thread_name_prefix="read weights")
    try:
        while True:
            while not waiting or ahead < READ_AHEAD:
                name, tensor = next(upcoming, (None, None))
                if name is None or tensor is None:
                    break
                waiting.append((name, tensor.nbytes, pool.submit(_read, tensor, is_pinned)))
                ahead += tensor.nbytes
            if not waiting:
                return
            name, size, future = waiting.popleft()
            yield name, future.result()
            ahead -= size
    finally:
        pool.shutdown(cancel_futures=True)


def _read(tensor: LazyTensor, is_pinned: bool) -> Tensor:
    return tensor.read().pin_memory() if is_pinned else tensor.read()


def open_file(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one safetensors or torch file, by name, in file order.

    Raises FileNotFoundError, or CheckpointError for a truncated file, a Git LFS pointer or one without
    tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` beside it")
    return open_safetensors(path) if path.suffix == ".safetensors" else open_torch(path)


# --- safetensors


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file and the offset its data starts at."""
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        text = file.read(length) if 0 < length <= LARGEST_HEADER else b""
    try:
        header = json.loads(text)
    except ValueError:
        header = None
    if len(text) < length or not isinstance(header, dict):
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) does not start with a safetensors header: "
            "truncated or not a safetensors file; download it again"
        )
    return header, 8 + length


def open_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a safetensors file; its size must be exactly what its header promises."""
    header, start = read_header(path)
    header.pop("__metadata__", None)
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
        dtype = SAFETENSORS_DTYPES.get(entry["dtype"])
        shape = tuple(entry["shape"])
        first, last = entry["data_offsets"]
        if dtype is None or last - first != prod(shape) * dtype.itemsize:
            raise CheckpointError(f"{path}: the header of {name} is broken: {entry}")
        read = partial(read_span, path, start + first, shape, dtype)
        tensors[name] = LazyTensor(name, shape, dtype, str(path), read)
        end = max(end, last)
    size = path.stat().st_size
    if size != start + end:
        fault = "truncated" if size < start + end else "followed by foreign bytes"
        raise CheckpointError(
            f"{path} is {fault}: its header promises {start + end} bytes, the file has {size}; "
            "download it again"
        )
    return tensors


# --- torch


def open_torch(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a torch file, unwrapped from `module`, `state_dict` or `model`.

    Raises CheckpointError for a file that is broken or holds no dictionary of tensors.
    """
    state = state_of(open_tree(path), path)
    return {name: lazy_torch(name, tensor) for name, tensor in state.items()}


def lazy_torch(name: str, tensor: StoredTensor) -> LazyTensor:
    """A tensor of a torch file by any name."""
    return LazyTensor(name, tensor.shape, tensor.dtype, str(tensor.path), tensor.read)
