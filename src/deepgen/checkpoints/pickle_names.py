"""Stand-ins for the names in a pickle: tensors of torch, plain containers, and inert objects for the rest.

Nothing is imported by a name. The few names that torch writes for a tensor, a storage or a number format are
listed here, and each gives a description of where the numbers lie; calling any other name gives an `Inert`,
which keeps what it was called with. The instructions around the names are carried out in `unpickle.py`.

What calls copy is counted, because a pickle can name one long list a million times. Dictionaries take only
keys that are quick to hash and to compare, and of which no file can make many collide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch

MOST_COPIED = 2_000_000  # values that calls take out of one container and put into another
MOST_DIMENSIONS = 64  # of a tensor, as torch
LONGEST_NAME = 1024  # characters of a module, a class or a dictionary's key
LONGEST_TUPLE = 3  # of texts and small numbers, as a key
LARGEST_KEY = 2**60  # a number beyond can be made to hash like any other
LARGEST_EXPANSION = 2**26  # numbers of a tensor that repeats those of its storage


class PickleError(ValueError):
    """A pickle that is broken, or larger than anything torch writes."""


@dataclass(eq=False, slots=True)
class Inert:
    """Stands for an object of a class that is not known here. Equal only to itself, so it can be a key."""

    name: str  # "module.name" as the pickle has it
    args: tuple[Any, ...] = ()
    kwargs: Any = None
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<{self.name}>"  # never what it holds: pickles can nest without end


@dataclass(frozen=True)
class StoredStorage:
    """The numbers of one or more tensors, by the name the file has for them."""

    key: str
    dtype: torch.dtype
    numel: int
    first: int = 0  # the element it starts at; only files of torch before 1.6 have views of a storage


@dataclass(frozen=True)
class StoredView:
    """A tensor as the pickle describes it: which elements of a storage. Strides are in elements."""

    storage: StoredStorage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    @property
    def span(self) -> int:
        """Elements from the first to the last one, both counted."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))


@dataclass(frozen=True)
class _Known:
    """A name this interpreter gives a meaning to."""

    name: str
    call: Callable[..., Any]


class Memo(dict[int, Any]):
    """Values by number, and how many values calls have copied."""

    copied = 0

    def count_copies(self, args: tuple[Any, ...]) -> None:
        """PickleError once calls with these and earlier arguments copy more than any model needs."""
        self.copied += len(args) + sum(len(value) for value in args[:4] if isinstance(value, _SIZED))
        if self.copied > MOST_COPIED:
            raise PickleError(f"copies more than {MOST_COPIED} values")


_SIZED = (str, bytes, bytearray, list, tuple, dict, set)


def mapping(value: Any) -> Mapping[Any, Any] | None:
    """What a dictionary holds, be it a plain one or of a class that is not known here; None for the rest."""
    if isinstance(value, Inert):
        first = value.args[0] if value.args else None
        return value.items or (first if isinstance(first, dict) else None)
    return value if isinstance(value, dict) else None


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Any:
    if len(shape) > MOST_DIMENSIONS or len(strides) > MOST_DIMENSIONS:
        raise PickleError(f"describes a tensor of more than {MOST_DIMENSIONS} dimensions")
    shape, strides = tuple(shape), tuple(strides)
    is_whole = isinstance(storage, StoredStorage) and len(shape) == len(strides)
    if not is_whole or not all(_is_count(value) for value in (offset, *shape, *strides)):
        raise PickleError("describes a tensor without storage, or with sizes that are no counts")
    view = StoredView(storage, offset, shape, strides)
    if offset + view.span > storage.numel:
        raise PickleError(
            f"describes a tensor of shape {shape} that ends beyond the {storage.numel} numbers of its storage"
        )
    if prod(shape) > max(storage.numel, LARGEST_EXPANSION):  # stride 0 repeats numbers without end
        raise PickleError(f"describes a tensor of shape {shape} made of {storage.numel} numbers")
    return view


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _rebuild_tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> Any:
    if not (isinstance(storage, StoredStorage) and isinstance(dtype, torch.dtype)):
        raise PickleError("describes a tensor without storage or number format")
    count = storage.numel * storage.dtype.itemsize // dtype.itemsize
    return _rebuild_tensor(
        StoredStorage(storage.key, dtype, count, storage.first), offset, shape, strides, grad, hooks
    )


def _first(data: Any, *rest: Any) -> Any:
    return data


def _rebuild_from_type(memo: Memo, call: Any, kind: Any, args: Any, state: Any) -> Any:
    # A subclass of a tensor, or one with attributes: the numbers are what its own rebuilding gives.
    if isinstance(call, _Known):
        return apply(call, args, memo)
    return Inert(_FROM_TYPE, (call, kind, args, state))


def _entries(*args: Any) -> dict[Any, Any]:
    pairs = args[0] if args else ()
    pairs = pairs.items() if isinstance(pairs, dict) else pairs
    return {as_key(key): value for key, value in pairs}


def as_keys(values: Any = ()) -> set[Any]:
    return {as_key(value) for value in values}


_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
_REBUILD: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    _FROM_TYPE: _rebuild_from_type,
    "torch.Size": lambda values=(): tuple(values),
    "collections.OrderedDict": _entries,
}
_BUILTINS = {"set": as_keys, "frozenset": as_keys, "dict": _entries}
_KNOWN = {name: _Known(name, call) for name, call in _REBUILD.items()} | {
    f"{module}.{name}": _Known(name, call)
    for module in ("builtins", "__builtin__")
    for name, call in _BUILTINS.items()
}
_DTYPES = {f"torch.{value}".removeprefix("torch."): value for value in vars(torch).values()
           if isinstance(value, torch.dtype)}  # fmt: skip
_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
_KNOWN_TYPES = {f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()} | _DTYPES
_KNOWN_TYPES |= {"torch.storage.UntypedStorage": torch.uint8, "torch.UntypedStorage": torch.uint8}


def find(module: Any, name: Any) -> Any:
    is_name = all(isinstance(part, str) and len(part) <= LONGEST_NAME for part in (module, name))
    full = f"{module}.{name}" if is_name else "an unnamed object"
    return _KNOWN.get(full) or _KNOWN_TYPES.get(full) or Inert(full)


def apply(function: Any, args: Any, memo: Memo) -> Any:
    """What a pickled call gives: a tensor or container for a known name, an inert object otherwise."""
    args = args if isinstance(args, tuple) else (args,)
    if isinstance(function, _Known):
        memo.count_copies(args)
        if function.call is _rebuild_from_type:  # one argument is a class, which stays inert
            return _rebuild_from_type(memo, *args)
        if not any(isinstance(value, Inert) for value in args[:4]):
            return function.call(*args)
        return Inert(function.name, args)
    name = function.name if isinstance(function, Inert) else "an object that is no function"
    return Inert(name, args)


def persistent(key: Any) -> Any:
    """What a torch file keeps outside the pickle: a storage."""
    if not (isinstance(key, tuple) and len(key) >= 5 and key[0] == "storage"):
        return Inert("an outside object", (key,))
    _, dtype, name, _, count, *view = key
    is_whole = isinstance(dtype, torch.dtype) and isinstance(name, str) and _is_count(count)
    if not is_whole:
        return Inert("a storage of unknown type", key)
    if view and isinstance(view[0], tuple) and len(view[0]) == 3:
        first, size = view[0][1:]
        if not (_is_count(first) and _is_count(size) and first + size <= count):
            raise PickleError(f"has a view beyond storage {name}")
        return StoredStorage(name, dtype, size, first)
    return StoredStorage(name, dtype, count)


def as_key(value: Any) -> Any:
    """A value as a dictionary's key, and an inert one where hashing or comparing it could take for ever."""
    if isinstance(value, str | bytes):
        is_plain = len(value) <= LONGEST_NAME
    elif isinstance(value, int):
        is_plain = -LARGEST_KEY < value < LARGEST_KEY
    elif type(value) is tuple:
        is_plain = len(value) <= LONGEST_TUPLE and all(map(_is_part, value))
    else:
        is_plain = isinstance(value, float | type(None) | Inert | torch.dtype)
    return value if is_plain else Inert("a key", (value,))


def _is_part(value: Any) -> bool:
    # Python hashes -1 and -2 alike, and large numbers can be chosen so that tuples collide.
    return len(value) <= LONGEST_NAME if isinstance(value, str) else type(value) is int and 0 <= value < 2**16
