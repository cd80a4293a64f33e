"""Pickles read as data: nothing is imported and nothing that a pickle names is called.

Python's own unpickler calls what the file says, so that opening a stranger's file can run a stranger's code.
Here the pickle's instructions are carried out by a small interpreter that knows plain containers and the few
names torch writes for a tensor. Every other name becomes an `Inert` object, which keeps what it is given and
does nothing. Configurations, histories and enumerations of any library therefore open without that library,
and what they say can still be looked up as data.

The format is described in Python's pickletools, which also splits the file into instructions. Memory is
bounded by the length of the pickle: memo entries are kept by number, lengths are checked against the bytes
that are there, and what calls copy is counted, because a pickle can name one long list a million times.
Dictionaries take only keys that are quick to hash and to compare and of which no file can make many collide.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, BinaryIO

import torch

LARGEST_PICKLE = 2**28  # bytes; the pickle of a file holds names and shapes, not weights
MOST_INSTRUCTIONS = 2_000_000  # the model states of 776 tensors take 16,000
MOST_COPIED = 2_000_000  # values that calls take out of one container and put into another
MOST_DIMENSIONS = 64  # of a tensor, as torch
LONGEST_NAME = 1024  # characters of a module, a class or a dictionary's key
LONGEST_TUPLE = 3  # of texts and small numbers, as a key
LARGEST_KEY = 2**60  # a number beyond can be made to hash like any other
LARGEST_EXPANSION = 2**26  # numbers of a tensor that repeats those of its storage
_FAULTS = (
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    EOFError,
    OverflowError,
    RecursionError,
    MemoryError,
)


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
    first: int = (
        0  # element of the storage `key` this one starts at; only files of torch before 1.6 have views
    )


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


class _Memo(dict[int, Any]):
    """Values by number, and how many values calls have copied."""

    copied = 0

    def count_copies(self, args: tuple[Any, ...]) -> None:
        self.copied += len(args) + sum(len(value) for value in args[:4] if isinstance(value, _SIZED))
        if self.copied > MOST_COPIED:
            raise PickleError(f"copies more than {MOST_COPIED} values")


_SIZED = (str, bytes, bytearray, list, tuple, dict, set)


class _Mark:
    pass


_MARK = _Mark()


def unpickle(stream: BinaryIO, size: int) -> Any:
    """The value pickled at the stream's position, which moves behind it.

    Args:
        stream: an open file.
        size: bytes left in it, beyond which no length may point.

    Raises:
        PickleError: broken, or more instructions than the weights of any model need.
    """
    stack: list[Any] = []
    memo = _Memo()
    last = None
    try:
        for number, (opcode, arg, _) in enumerate(pickletools.genops(_Bounded(stream, size))):  # type: ignore[arg-type]
            if number > MOST_INSTRUCTIONS:
                raise PickleError(f"has more than {MOST_INSTRUCTIONS} instructions")
            last = opcode.name
            if last == "STOP":
                return stack.pop()
            _STEPS[last](stack, memo, arg)
    except PickleError:
        raise
    except _FAULTS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PickleError(f"is broken at {last or 'its start'}: {reason[:200]}") from None
    raise PickleError("has no end")


class _Bounded:
    """A stream that asks for no more than is there: memory is reserved before bytes are read."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._left = stream, min(size, LARGEST_PICKLE)

    def read(self, count: int) -> bytes:
        data = self._stream.read(min(count, self._left)) if count > 0 else b""
        self._left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self._stream.readline(self._left)
        self._left -= len(data)
        return data


def mapping(value: Any) -> Mapping[Any, Any] | None:
    """What a dictionary holds, be it a plain one or of a class that is not known here; None for the rest."""
    if isinstance(value, Inert):
        first = value.args[0] if value.args else None
        return value.items or (first if isinstance(first, dict) else None)
    return value if isinstance(value, dict) else None


# --- names


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


def _rebuild_from_type(memo: _Memo, call: Any, kind: Any, args: Any, state: Any) -> Any:
    # A subclass of a tensor, or one with attributes: the numbers are what its own rebuilding gives.
    if isinstance(call, _Known):
        return _call(call, args, memo)
    return Inert(_FROM_TYPE, (call, kind, args, state))


def _entries(*args: Any) -> dict[Any, Any]:
    pairs = args[0] if args else ()
    pairs = pairs.items() if isinstance(pairs, dict) else pairs
    return {_key(key): value for key, value in pairs}


def _keys(values: Any = ()) -> set[Any]:
    return {_key(value) for value in values}


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
_BUILTINS = {"set": _keys, "frozenset": _keys, "dict": _entries}
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


def _find(module: Any, name: Any) -> Any:
    is_name = all(isinstance(part, str) and len(part) <= LONGEST_NAME for part in (module, name))
    full = f"{module}.{name}" if is_name else "an unnamed object"
    return _KNOWN.get(full) or _KNOWN_TYPES.get(full) or Inert(full)


def _call(function: Any, args: Any, memo: _Memo) -> Any:
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


def _persistent(key: Any) -> Any:
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


def _key(value: Any) -> Any:
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


# --- instructions: each takes the stack, the memo and its argument


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    for index in range(len(stack) - 1, -1, -1):
        if stack[index] is _MARK:
            values = stack[index + 1 :]
            del stack[index:]
            return values
    raise PickleError("has no mark where one is needed")


def _push(stack: list[Any], memo: _Memo, arg: Any) -> None:
    stack.append(arg)


def _constant(value: Any) -> Callable[..., None]:
    return lambda stack, memo, arg: stack.append(value)


def _nothing(stack: list[Any], memo: _Memo, arg: Any) -> None:
    pass


def _pop(stack: list[Any], memo: _Memo, arg: Any) -> None:
    stack.pop()


def _gather(make: Callable[[list[Any]], Any]) -> Callable[..., None]:
    return lambda stack, memo, arg: stack.append(make(_pop_to_mark(stack)))


def _tuple_of(count: int) -> Callable[..., None]:
    def step(stack: list[Any], memo: _Memo, arg: Any) -> None:
        if len(stack) < count:
            raise PickleError("has too few values for a tuple")
        stack[-count:] = [tuple(stack[-count:])]

    return step


def _pairs(values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise PickleError("has a key without a value")
    return {_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _set_items(stack: list[Any], values: list[Any]) -> None:
    target = stack[-1]
    into = target.items if isinstance(target, Inert) else target
    if isinstance(into, dict):
        into.update(_pairs(values))
    else:
        raise PickleError(f"sets items of a {type(target).__name__}")


def _add_elements(stack: list[Any], values: list[Any]) -> None:
    target = stack[-1]
    if isinstance(target, set):
        target.update(map(_key, values))
        return
    into = target.elements if isinstance(target, Inert) else target
    if not isinstance(into, list):
        raise PickleError(f"appends to a {type(target).__name__}")
    into.extend(values)


def _set_item(stack: list[Any], memo: _Memo, arg: Any) -> None:
    value, key = stack.pop(), stack.pop()
    _set_items(stack, [key, value])


def _append(stack: list[Any], memo: _Memo, arg: Any) -> None:
    value = stack.pop()
    _add_elements(stack, [value])


def _build(stack: list[Any], memo: _Memo, arg: Any) -> None:
    state = stack.pop()
    if isinstance(stack[-1], Inert):
        stack[-1].state = state
    # Attributes of what is known here (an OrderedDict's `_metadata`) say nothing about the weights.


def _reduce(stack: list[Any], memo: _Memo, arg: Any) -> None:
    args, function = stack.pop(), stack.pop()
    stack.append(_call(function, args, memo))


def _new_object(stack: list[Any], memo: _Memo, arg: Any) -> None:
    _reduce(stack, memo, arg)


def _new_object_with_names(stack: list[Any], memo: _Memo, arg: Any) -> None:
    names = stack.pop()
    _reduce(stack, memo, arg)
    if isinstance(stack[-1], Inert):
        stack[-1].kwargs = names


def _instance(stack: list[Any], memo: _Memo, arg: Any) -> None:
    stack.append(_call(_find(*arg.split(" ", 1)), tuple(_pop_to_mark(stack)), memo))


def _object(stack: list[Any], memo: _Memo, arg: Any) -> None:
    function, *args = _pop_to_mark(stack)
    stack.append(_call(function, tuple(args), memo))


def _global(stack: list[Any], memo: _Memo, arg: Any) -> None:
    stack.append(_find(*arg.split(" ", 1)))


def _stack_global(stack: list[Any], memo: _Memo, arg: Any) -> None:
    name, module = stack.pop(), stack.pop()
    stack.append(_find(module, name))


def _put(stack: list[Any], memo: _Memo, arg: Any) -> None:
    memo[int(arg)] = stack[-1]


def _memoize(stack: list[Any], memo: _Memo, arg: Any) -> None:
    memo[len(memo)] = stack[-1]


def _get(stack: list[Any], memo: _Memo, arg: Any) -> None:
    stack.append(memo[int(arg)])


_STEPS: dict[str, Callable[[list[Any], _Memo, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "READONLY_BUFFER"), _nothing),
    **dict.fromkeys(
        (
            *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
            *("STRING", "BINSTRING", "SHORT_BINSTRING"),
            *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
            *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        ),
        _push,
    ),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "MARK": _constant(_MARK),
    "EMPTY_LIST": lambda stack, memo, arg: stack.append([]),
    "EMPTY_DICT": lambda stack, memo, arg: stack.append({}),
    "EMPTY_SET": lambda stack, memo, arg: stack.append(set()),
    "LIST": _gather(list),
    "TUPLE": _gather(tuple),
    "DICT": _gather(_pairs),
    "FROZENSET": _gather(_keys),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": _append,
    "APPENDS": lambda stack, memo, arg: _add_elements_from(stack),
    "ADDITEMS": lambda stack, memo, arg: _add_elements_from(stack),
    "SETITEM": _set_item,
    "SETITEMS": lambda stack, memo, arg: _set_items_from(stack),
    "POP": _pop,
    "POP_MARK": lambda stack, memo, arg: _drop_to_mark(stack),
    "DUP": lambda stack, memo, arg: stack.append(stack[-1]),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
    "INST": _instance,
    "OBJ": _object,
    "NEWOBJ": _new_object,
    "NEWOBJ_EX": _new_object_with_names,
    **{
        name: lambda stack, memo, arg: stack.append(Inert(f"extension {arg}"))
        for name in ("EXT1", "EXT2", "EXT4")
    },
    "NEXT_BUFFER": lambda stack, memo, arg: stack.append(Inert("an outside buffer")),
    "PERSID": lambda stack, memo, arg: stack.append(_persistent(arg)),
    "BINPERSID": lambda stack, memo, arg: stack.append(_persistent(stack.pop())),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    "MEMOIZE": _memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
}


def _add_elements_from(stack: list[Any]) -> None:
    values = _pop_to_mark(stack)
    _add_elements(stack, values)


def _set_items_from(stack: list[Any]) -> None:
    values = _pop_to_mark(stack)
    _set_items(stack, values)


def _drop_to_mark(stack: list[Any]) -> None:
    _pop_to_mark(stack)
