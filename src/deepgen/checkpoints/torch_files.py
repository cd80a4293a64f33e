"""Torch files: their tensors and where the numbers lie, without running code and without loading.

A file of torch since 1.6 is a zip with a pickle (`data.pkl`) and one uncompressed member for each storage;
before, it was five pickles and then the storages one after the other. Both are opened as the pickled value in
which every tensor is a `StoredTensor`, which knows its place in the file.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from errno import EINVAL
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from deepgen.checkpoints.pickle_names import Inert, PickleError, StoredStorage, StoredView, mapping
from deepgen.checkpoints.spans import read_into, read_span
from deepgen.checkpoints.unpickle import LARGEST_PICKLE, unpickle
from deepgen.models.errors import CheckpointError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
WRAPPERS = ("module", "state_dict", "model")
MOST_REPEATS = 16  # how often over tensors may share the numbers of their file
REPEATS_SLACK = 2**30  # bytes beyond that
_FAULTS = (ValueError, RuntimeError, EOFError, OverflowError)  # of broken zip archives; PickleError is one
_LOCAL_HEADER = 30  # bytes before the name of a zip member


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a torch file: `read()` returns a fresh copy."""

    path: Path
    view: StoredView
    start: int  # byte of the file where its storage starts

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.view.dtype

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def is_contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.view.strides), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    def read(self) -> Tensor:
        view = self.view
        if self.is_contiguous or 0 in self.shape:
            return read_span(self.path, self._byte(0), self.shape, self.dtype)
        flat = read_span(self.path, self._byte(0), (view.span,), self.dtype)
        return flat.as_strided(self.shape, view.strides).contiguous()

    def read_into(self, target: Tensor, first: int) -> None:
        """Fill `target`, flat, with the numbers of a contiguous tensor from the `first` on."""
        read_into(target, self.path, self._byte(first))

    def _byte(self, element: int) -> int:
        return self.start + (self.view.offset + element) * self.dtype.itemsize


def open_tree(path: Path) -> Any:
    """The value saved in a torch file; its tensors are `StoredTensor`, foreign objects are inert.

    Raises CheckpointError for a file that is truncated, not of torch, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            tree, locate = (_open_zip if zipfile.is_zipfile(file) else _open_legacy)(path, file)
        return _placed(tree, path, locate)
    except (zipfile.BadZipFile, struct.error, *_FAULTS) as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is truncated or not a torch file: {error}"
        ) from None
    except PermissionError:
        raise CheckpointError(f"{path} cannot be read: permission denied") from None
    except OSError as error:
        if error.errno != EINVAL:
            raise
        raise CheckpointError(f"{path} is no torch file: it points outside of itself") from None


def state_of(tree: Any, path: Path) -> dict[str, StoredTensor]:
    """The tensors of a state dict: the saved value, or what is under `module`, `state_dict` or `model`.

    Raises CheckpointError that says what is there instead.
    """
    state = mapping(tree)
    if state is None:
        what = f"a {'tensor' if isinstance(tree, StoredView) else type(tree).__name__}"
        if isinstance(tree, Inert):
            what = f"an object of {tree.name}; save its state_dict() instead"
        raise CheckpointError(f"{path}: expected a dictionary of tensors, the file holds {what}")
    for key in WRAPPERS:
        inner = mapping(state.get(key))
        if inner and any(isinstance(value, StoredTensor) for value in inner.values()):
            state = inner
            break
    tensors = {str(key): value for key, value in state.items() if isinstance(value, StoredTensor)}
    if not tensors:
        known = ", ".join(str(key)[:80] for key in list(state)[:10])
        raise CheckpointError(f"{path} holds no tensors; its entries are: {known or 'none'}")
    return tensors


# --- containers

Locate = Callable[[StoredStorage], int]


def _open_zip(path: Path, file: BinaryIO) -> tuple[Any, Locate]:
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise PickleError("a zip archive with two members of one name, where torch writes one")
        found = [name for name in members if name.endswith("/data.pkl")]
        if len(found) != 1:
            raise PickleError(
                f"a zip archive with {len(found)} members called data.pkl, where torch writes one"
            )
        root = found[0].removesuffix("data.pkl")
        if members[found[0]].file_size > LARGEST_PICKLE:
            raise PickleError(
                f"its pickle takes {members[found[0]].file_size} bytes; the limit is {LARGEST_PICKLE}"
            )
        for name in (found[0], root + "byteorder"):
            if name in members and not _is_plain(members[name]):
                raise PickleError("its pickle is compressed, as torch does not; unpack and save it again")
        order = b"little"
        if root + "byteorder" in members:
            with archive.open(root + "byteorder") as member:
                order = member.read(16)
        if order != b"little":
            raise PickleError(f"its numbers are {order[:10]!r} endian; save it on a little endian machine")
        content = archive.read(found[0])
    size = path.stat().st_size

    def locate(storage: StoredStorage) -> int:
        info = members.get(f"{root}data/{storage.key}")
        if info is None:
            raise PickleError(f"it has no storage {storage.key[:40]!r}")
        if not _is_plain(info):
            raise PickleError("its storages are compressed, as torch does not; unpack and save it again")
        with path.open("rb") as again:
            again.seek(info.header_offset)
            header = again.read(_LOCAL_HEADER)
        name, extra = struct.unpack("<HH", header[26:30])
        start = info.header_offset + _LOCAL_HEADER + name + extra
        if info.file_size < storage.numel * storage.dtype.itemsize or start + info.file_size > size:
            raise PickleError(f"storage {storage.key} is shorter than its {storage.numel} numbers")
        return start

    return unpickle(io.BytesIO(content), len(content)), locate


def _is_plain(info: zipfile.ZipInfo) -> bool:
    is_encrypted = bool(info.flag_bits & 1)
    is_stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    return is_stored and not is_encrypted


def _open_legacy(path: Path, file: BinaryIO) -> tuple[Any, Locate]:
    size = path.stat().st_size

    def load() -> Any:
        return unpickle(file, size - file.tell())

    file.seek(0)
    if load() != LEGACY_MAGIC:
        raise PickleError("it is a pickle, but not one of torch.save")
    load()  # protocol version
    system = mapping(load()) or {}
    if system.get("little_endian") is not True:
        raise PickleError("its numbers are not little endian; save it on a little endian machine")
    tree, keys = load(), load()
    places: dict[str, tuple[int, int]] = {}  # storage -> (first byte of its data, elements)
    storages = {storage.key: storage for storage in _storages(tree)}
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str):
            raise PickleError("its list of storages holds what is no name")
        count, start = struct.unpack("<q", file.read(8))[0], file.tell()
        itemsize = storages[key].dtype.itemsize if key in storages else 0
        if not itemsize or count < 0 or start + count * itemsize > size:
            raise PickleError(f"storage {key[:40]} is shorter than the {count} numbers it promises")
        places[key] = (start, count)
        file.seek(start + count * itemsize)

    def locate(storage: StoredStorage) -> int:
        start, count = places.get(storage.key, (0, -1))
        if storage.first + storage.numel > count:
            raise PickleError(f"storage {storage.key[:40]!r} is missing or short")
        return start + storage.first * storage.dtype.itemsize

    return tree, locate


# --- walking what was pickled; every object once, because pickles can refer to one object many times


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, Inert):
        return [value.args, value.kwargs, value.state, value.items, value.elements]
    return []


def _storages(tree: Any) -> list[StoredStorage]:
    found, seen, waiting = [], set(), [tree]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, StoredView):
            found.append(value.storage)
        elif isinstance(value, StoredStorage):
            found.append(value)
        else:
            waiting += _parts(value)
    return found


def _placed(tree: Any, path: Path, locate: Locate) -> Any:
    """The tree with every view in a dictionary or list replaced by a `StoredTensor`."""
    starts: dict[StoredStorage, int] = {}
    seen: set[int] = set()
    waiting = [tree]
    left = MOST_REPEATS * path.stat().st_size + REPEATS_SLACK

    def place(value: Any) -> Any:
        nonlocal left
        if not isinstance(value, StoredView):
            waiting.append(value)
            return value
        left -= prod(value.shape) * value.dtype.itemsize
        if left < 0:
            raise PickleError(f"its tensors repeat the numbers of the file more than {MOST_REPEATS} times")
        if value.storage not in starts:
            starts[value.storage] = locate(value.storage)
        return StoredTensor(path, value, starts[value.storage])

    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            value.update({key: place(item) for key, item in value.items()})
        elif isinstance(value, list):
            value[:] = [place(item) for item in value]
        else:
            waiting += _parts(value)
    return tree
