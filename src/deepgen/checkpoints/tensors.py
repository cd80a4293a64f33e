"""Tensors of a checkpoint, opened one at a time.

A file is opened as a dictionary of `LazyTensor`: name, shape and dtype come from its header, the numbers only
from `read()`, which seeks and copies. Nothing is memory mapped, so what has been read and dropped does not
count against the process, and a 5B model can be walked through in the memory of its largest tensor. Torch
files are read as data, by `unpickle.py`: what they name is neither imported nor called.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from deepgen.checkpoints.safetensors_header import SAFETENSORS_DTYPES, read_entries, read_header
from deepgen.checkpoints.spans import as_bytes, read_span
from deepgen.checkpoints.torch_files import StoredTensor, open_tree, state_of
from deepgen.models.errors import CheckpointError

__all__ = [
    "SAFETENSORS_DTYPES",
    "CheckpointError",
    "LazyTensor",
    "as_bytes",
    "open_file",
    "open_files",
    "read_ahead",
    "read_header",
]

READERS = 4  # threads at most
READ_AHEAD = 2**28  # bytes that are read and not yet taken


@dataclass(frozen=True)
class LazyTensor:
    """One tensor of a file: `read()` returns a fresh copy that belongs to the caller."""

    name: str  # as the file spells it
    shape: tuple[int, ...]
    dtype: torch.dtype
    origin: str  # the file
    read: Callable[[], Tensor]
    offset: int | None = None  # bytes from the start of the file, where the file is one run of plain bytes

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


def open_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a safetensors file, by name, in file order; CheckpointError for a wrong header."""
    return {
        name: LazyTensor(
            name,
            entry.shape,
            entry.dtype,
            str(path),
            partial(read_span, path, entry.first, entry.shape, entry.dtype),
            entry.first,
        )
        for name, entry in read_entries(path).items()
    }


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
