"""Tensors of a checkpoint, opened one at a time.

A file is opened as a dictionary of `LazyTensor`: name, shape and dtype come from its header, the numbers only
from `read()`, which seeks and copies. Nothing is memory mapped, so what has been read and dropped does not
count against the process, and a 5B model can be walked through in the memory of its largest tensor. Pickles
are opened with `weights_only=True`; what needs more is refused.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import zipfile
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
WRAPPERS = ("module", "state_dict", "model")

# What mmengine and DeepSpeed store next to the weights. It is replaced by a value that does nothing, never
# imported.
BOOKKEEPING = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used as it is; the message says which file and what to do."""

    exit_code = 1  # of the command line: a file that cannot be used, where 2 is a command that cannot


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

    Raises FileNotFoundError, or CheckpointError for a truncated file, a Git LFS pointer or an unsafe pickle.
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
        read = partial(_read_span, path, start + first, shape, dtype)
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


def as_bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]


def _read_span(path: Path, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    if tensor.numel():
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            view = as_bytes(tensor)
            while view:
                count = file.readinto(view)
                if not count:
                    raise CheckpointError(f"{path} ended while reading; it changed or is truncated")
                view = view[count:]
    return tensor


# --- torch


class _Bookkeeping:
    """Takes the place of a bookkeeping object: swallows what the pickle hands it."""

    def __new__(cls, *args: Any) -> _Bookkeeping:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def open_torch(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a torch file, unwrapped from `module`, `state_dict` or `model`.

    Raises CheckpointError when the pickle needs more than `weights_only=True` allows.
    """
    state = unwrap(_load(path))
    if not all(_is_located(value) for value in state.values()):
        state = unwrap(_load(path, into_memory=True))
    tensors = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            continue  # epoch counters and the like
        read = partial(_read_strided, path, value) if value.is_meta else value.clone
        tensors[name] = LazyTensor(name, tuple(value.shape), value.dtype, str(path), read)
    if not tensors:
        known = ", ".join(map(str, list(state)[:10]))
        raise CheckpointError(f"{path} holds no tensors; its entries are: {known or 'none'}")
    return tensors


def unwrap(state: Any) -> Mapping[str, Any]:
    """The dictionary of tensors inside what was saved: itself, or one level down."""
    if not isinstance(state, Mapping):
        raise CheckpointError(f"expected a dictionary of tensors, the file holds a {type(state).__name__}")
    for key in WRAPPERS:
        inner = state.get(key)
        if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
            return inner
    return state


def _is_located(value: Any) -> bool:
    """Whether it is known where in the file this tensor lies; older versions of torch do not say."""
    return not (isinstance(value, Tensor) and value.is_meta) or hasattr(
        value.untyped_storage(), "_checkpoint_offset"
    )


def _load(path: Path, into_memory: bool = False) -> Any:
    # Only zip files know their offsets: what torch before 1.6 wrote comes into memory whole.
    place = "cpu" if into_memory or not zipfile.is_zipfile(path) else "meta"
    load = partial(torch.load, path, weights_only=True, map_location=place)
    stand_ins = [(type("Inert", (_Bookkeeping,), {}), name) for name in BOOKKEEPING]
    try:
        with torch.serialization.safe_globals(stand_ins):  # pyright: ignore[reportArgumentType]
            return load()
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it needs {found.group(1)}" if found else str(error).strip().splitlines()[-1]
        raise CheckpointError(
            f"{path} is a pickle that asks for more than tensors ({reason}); loading it could run code, "
            "so it was not loaded."
            " If you trust its author, rewrite it on a throw-away machine:"
            f" torch.save(torch.load({path.name!r}, weights_only=False)['state_dict'], 'clean.pt')"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is truncated or not a torch file: "
            f"{(str(error) or type(error).__name__).splitlines()[0]}"
        ) from None


def _read_strided(path: Path, value: Tensor) -> Tensor:
    storage: Any = value.untyped_storage()
    start = storage._checkpoint_offset + value.storage_offset() * value.dtype.itemsize
    if value.is_contiguous():
        return _read_span(path, start, tuple(value.shape), value.dtype)
    span = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    flat = _read_span(path, start, (span,), value.dtype)
    return flat.as_strided(value.shape, value.stride()).contiguous()
