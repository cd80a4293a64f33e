"""Pickles read as data: nothing is imported and nothing that a pickle names is called.

Python's own unpickler calls what the file says, so that opening a downloaded file can run code of its author.
Here the pickle's instructions are carried out by a small interpreter that knows plain containers and the few
names torch writes for a tensor. Every other name becomes an `Inert` object, which keeps what it is given and
does nothing. Configurations, histories and enumerations of any library therefore open without that library,
and what they say can still be looked up as data.

The format is described in Python's pickletools, which also splits the file into instructions. Memory is
bounded by the length of the pickle: memo entries are kept by number, lengths are checked against the bytes
that are there, and copies are counted.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

from deepgen.checkpoints.pickle_names import (
    Inert,
    Memo,
    PickleError,
    apply,
    as_key,
    as_keys,
    find,
    persistent,
)

LARGEST_PICKLE = 2**28  # bytes; the pickle of a file holds names and shapes, not weights
MOST_INSTRUCTIONS = 2_000_000  # the model states of 776 tensors take 16,000
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
    memo = Memo()
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


# --- instructions: each takes the stack, the memo and its argument


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    for index in range(len(stack) - 1, -1, -1):
        if stack[index] is _MARK:
            values = stack[index + 1 :]
            del stack[index:]
            return values
    raise PickleError("has no mark where one is needed")


def _push(stack: list[Any], memo: Memo, arg: Any) -> None:
    stack.append(arg)


def _constant(value: Any) -> Callable[..., None]:
    return lambda stack, memo, arg: stack.append(value)


def _nothing(stack: list[Any], memo: Memo, arg: Any) -> None:
    pass


def _pop(stack: list[Any], memo: Memo, arg: Any) -> None:
    stack.pop()


def _gather(make: Callable[[list[Any]], Any]) -> Callable[..., None]:
    return lambda stack, memo, arg: stack.append(make(_pop_to_mark(stack)))


def _tuple_of(count: int) -> Callable[..., None]:
    def step(stack: list[Any], memo: Memo, arg: Any) -> None:
        if len(stack) < count:
            raise PickleError("has too few values for a tuple")
        stack[-count:] = [tuple(stack[-count:])]

    return step


def _pairs(values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise PickleError("has a key without a value")
    return {as_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


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
        target.update(map(as_key, values))
        return
    into = target.elements if isinstance(target, Inert) else target
    if not isinstance(into, list):
        raise PickleError(f"appends to a {type(target).__name__}")
    into.extend(values)


def _set_item(stack: list[Any], memo: Memo, arg: Any) -> None:
    value, key = stack.pop(), stack.pop()
    _set_items(stack, [key, value])


def _append(stack: list[Any], memo: Memo, arg: Any) -> None:
    value = stack.pop()
    _add_elements(stack, [value])


def _set_all(stack: list[Any], memo: Memo, arg: Any) -> None:
    values = _pop_to_mark(stack)
    _set_items(stack, values)


def _append_all(stack: list[Any], memo: Memo, arg: Any) -> None:
    values = _pop_to_mark(stack)
    _add_elements(stack, values)


def _pop_mark(stack: list[Any], memo: Memo, arg: Any) -> None:
    _pop_to_mark(stack)


def _build(stack: list[Any], memo: Memo, arg: Any) -> None:
    state = stack.pop()
    if isinstance(stack[-1], Inert):
        stack[-1].state = state
    # Attributes of what is known here (an OrderedDict's `_metadata`) say nothing about the weights.


def _reduce(stack: list[Any], memo: Memo, arg: Any) -> None:
    args, function = stack.pop(), stack.pop()
    stack.append(apply(function, args, memo))


def _new_object_with_names(stack: list[Any], memo: Memo, arg: Any) -> None:
    names = stack.pop()
    _reduce(stack, memo, arg)
    if isinstance(stack[-1], Inert):
        stack[-1].kwargs = names


def _instance(stack: list[Any], memo: Memo, arg: Any) -> None:
    stack.append(apply(find(*arg.split(" ", 1)), tuple(_pop_to_mark(stack)), memo))


def _object(stack: list[Any], memo: Memo, arg: Any) -> None:
    function, *args = _pop_to_mark(stack)
    stack.append(apply(function, tuple(args), memo))


def _global(stack: list[Any], memo: Memo, arg: Any) -> None:
    stack.append(find(*arg.split(" ", 1)))


def _stack_global(stack: list[Any], memo: Memo, arg: Any) -> None:
    name, module = stack.pop(), stack.pop()
    stack.append(find(module, name))


def _put(stack: list[Any], memo: Memo, arg: Any) -> None:
    memo[int(arg)] = stack[-1]


def _memoize(stack: list[Any], memo: Memo, arg: Any) -> None:
    memo[len(memo)] = stack[-1]


def _get(stack: list[Any], memo: Memo, arg: Any) -> None:
    stack.append(memo[int(arg)])


_STEPS: dict[str, Callable[[list[Any], Memo, Any], None]] = {
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
    "FROZENSET": _gather(as_keys),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": _append,
    "APPENDS": _append_all,
    "ADDITEMS": _append_all,
    "SETITEM": _set_item,
    "SETITEMS": _set_all,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda stack, memo, arg: stack.append(stack[-1]),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
    "INST": _instance,
    "OBJ": _object,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_object_with_names,
    **{
        name: lambda stack, memo, arg: stack.append(Inert(f"extension {arg}"))
        for name in ("EXT1", "EXT2", "EXT4")
    },
    "NEXT_BUFFER": lambda stack, memo, arg: stack.append(Inert("an outside buffer")),
    "PERSID": lambda stack, memo, arg: stack.append(persistent(arg)),
    "BINPERSID": lambda stack, memo, arg: stack.append(persistent(stack.pop())),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    "MEMOIZE": _memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
}
