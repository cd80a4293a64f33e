"""The header of a safetensors file, read as strictly as the format's own library reads it.

The header is foreign text that says where numbers lie. A reader that believes it can be made to hand out the
same bytes twice, bytes that belong to no tensor, or numbers of another type than were written, without any
error. So it is accepted only if every byte of the data belongs to exactly one tensor of the stated type, and
the JSON says nothing twice. Source: the format's description in huggingface/safetensors, README.
"""

from __future__ import annotations

import json
import reprlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepgen.models.errors import CheckpointError

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
LARGEST_HEADER = 100_000_000  # bytes; the limit of the format itself
LARGEST_SIZE = 2**63 - 1  # of a dimension and of a product of them: what PyTorch counts with
MOST_DIMENSIONS = 64  # of a tensor in PyTorch
_FIELDS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: `first` and `last` count from the start of the file."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    first: int
    last: int


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file as it is written, and the offset its data starts at.

    Raises CheckpointError where it is no JSON object, says a name twice or is longer than the format allows.
    """
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        text = file.read(length) if 0 < length <= LARGEST_HEADER else b""
    if len(text) < length or not text:
        size = path.stat().st_size
        raise CheckpointError(
            f"{path} ({size} bytes) does not start with a safetensors header: "
            "truncated or not a safetensors file; download it again"
        )
    try:
        header = _parse(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} does not start with a safetensors header: {error or type(error).__name__}; "
            "it is truncated, damaged or not a safetensors file; download it again"
        ) from None
    return header, 8 + length


def read_entries(path: Path) -> dict[str, Entry]:
    """Every tensor's place, in file order; the file's size must be exactly what the header promises.

    Raises CheckpointError for anything the format does not allow: unknown types, sizes that do not fit,
    overlaps, gaps, bytes that belong to no tensor.
    """
    header, start = read_header(path)
    about = header.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise CheckpointError(f"{path}: the header's __metadata__ is broken: expected text by name")
    parsed = {name: _entry(path, name, entry, start) for name, entry in header.items()}
    entries = dict(sorted(parsed.items(), key=lambda item: (item[1].first, item[1].last)))
    end = start
    for name, entry in entries.items():
        if entry.first != end:
            fault = "overlaps the tensor before it" if entry.first < end else "leaves a gap before it"
            raise CheckpointError(
                f"{path}: the header of {name} is broken: it {fault} "
                f"(it starts at byte {entry.first - start} of the data, expected {end - start}); "
                "download the file again"
            )
        end = entry.last
    size = path.stat().st_size
    if size != end:
        fault = "truncated" if size < end else "followed by foreign bytes"
        raise CheckpointError(
            f"{path} is {fault}: its header promises {end} bytes, the file has {size}; download it again"
        )
    return entries


def _entry(path: Path, name: str, entry: Any, start: int) -> Entry:
    def refuse(reason: str) -> CheckpointError:
        return CheckpointError(f"{path}: the header of {name} is broken: {reason}; download the file again")

    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        raise refuse(f"expected dtype, shape and data_offsets, got {_short(entry)}")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = SAFETENSORS_DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise refuse(f"the type {_short(kind)} is not known; known: {', '.join(SAFETENSORS_DTYPES)}")
    if not _are_sizes(shape) or len(shape) > MOST_DIMENSIONS:
        raise refuse(f"{_short(shape)} is no shape")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise refuse(f"{_short(offsets)} is no pair of offsets")
    elements = 1
    for size in shape:
        elements *= size
        if elements * dtype.itemsize > LARGEST_SIZE:
            raise refuse(f"the shape {_short(shape)} has too many elements")
    if offsets[1] - offsets[0] != elements * dtype.itemsize:
        raise refuse(
            f"{kind} of shape {shape} takes {elements * dtype.itemsize} bytes, "
            f"its offsets {offsets} span {offsets[1] - offsets[0]}"
        )
    return Entry(tuple(shape), dtype, start + offsets[0], start + offsets[1])


def _are_sizes(values: Any) -> bool:
    """Whether this is a list of counts. `type` and not isinstance: true and false are no numbers here."""
    return isinstance(values, list) and all(type(v) is int and 0 <= v <= LARGEST_SIZE for v in values)


def _short(value: Any) -> str:
    text = reprlib.repr(value)  # bounded in depth as well, whatever the file nests
    return text if len(text) <= 80 else text[:77] + "..."


def _parse(text: bytes) -> dict[str, Any]:
    """JSON by its standard: UTF-8, no NaN, no name twice, no negative zero, no half characters."""
    header = json.loads(
        text.decode("utf-8"),
        object_pairs_hook=_without_duplicates,
        parse_constant=_refuse_constant,
        parse_int=_parse_count,
    )
    if not isinstance(header, dict) or not text.startswith(b"{"):
        raise ValueError(f"expected a JSON object, got a {type(header).__name__}")
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        for text in (name, value) if isinstance(value, str) else (name,):
            text.encode("utf-8")  # a half of a surrogate pair raises UnicodeEncodeError, a ValueError
        if name in result:
            raise ValueError(f"it says {_short(name)} twice")
        result[name] = value
    return result


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _parse_count(text: str) -> int:
    if text.startswith("-") or len(text) > 20:
        raise ValueError(f"{text[:24]} is no count")
    return int(text)
