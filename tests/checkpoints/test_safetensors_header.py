"""Our reader of safetensors headers accepts nothing that the format's own library refuses."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from deepgen.checkpoints.safetensors_header import LARGEST_HEADER
from deepgen.checkpoints.tensors import CheckpointError, open_file

STATE = {
    "a": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b": torch.arange(6, dtype=torch.float16),
    "c": torch.arange(5),
    "none": torch.zeros(0, 7, dtype=torch.bfloat16),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "truth": torch.tensor([True, False, True, True]),
}
WRITTEN = save(STATE, {"format": "pt"})
LENGTH = struct.unpack("<Q", WRITTEN[:8])[0]
HEADER, DATA = json.loads(WRITTEN[8 : 8 + LENGTH]), WRITTEN[8 + LENGTH :]
NUMBERS = (
    0,
    1,
    2,
    3,
    4,
    6,
    12,
    24,
    48,
    2**31,
    2**32,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    -1,
    1.0,
    4.5,
)
VALUES = (*NUMBERS, True, False, None, "", "F32", "4", [], [1], {}, {"a": 1}, [[1]], "\u00e9")
DTYPES = ("F32", "F16", "BF16", "I64", "I32", "U8", "I8", "BOOL", "F64", "F8_E4M3", "F4", "f32", "", 3, None)


def with_header(text: bytes, data: bytes = DATA) -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def as_text(header: object) -> bytes:
    return json.dumps(header).encode()


def entry(dtype: object, shape: object, offsets: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


ONE = entry("F32", [2], [0, 8])
BROKEN = {
    "a name twice": b'{"a":%b,"a":%b}' % (as_text(ONE), as_text(ONE)),
    "a field twice": b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "metadata twice": b'{"__metadata__":{},"__metadata__":{},"a":%b}' % as_text(ONE),
    "an overlap": as_text({"a": ONE, "b": entry("F32", [1], [4, 8])}),
    "the same bytes": as_text({"a": ONE, "b": ONE}),
    "a hole": as_text({"a": entry("F32", [1], [4, 8])}),
    "a hole between": as_text({"a": entry("U8", [2], [0, 2]), "b": entry("U8", [2], [6, 8])}),
    "bytes of no tensor": as_text({"a": entry("F32", [1], [0, 4])}),
    "another type": as_text({"a": entry("F16", [2], [0, 8])}),
    "an unknown type": as_text({"a": entry("F31", [2], [0, 8])}),
    "a type in small letters": as_text({"a": entry("f32", [2], [0, 8])}),
    "a type that is a list": as_text({"a": entry(["F32"], [2], [0, 8])}),
    "offsets past the end": as_text({"a": entry("F32", [4], [0, 16])}),
    "offsets backwards": as_text({"a": entry("F32", [2], [8, 0])}),
    "three offsets": as_text({"a": entry("F32", [2], [0, 8, 8])}),
    "negative offsets": as_text({"a": entry("F32", [2], [-8, 0])}),
    "negative sizes": as_text({"a": entry("F32", [-1, -2], [0, 8])}),
    "a negative zero": b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[-0,8]}}',
    "a truth for a size": as_text({"a": entry("F32", [True, 2], [0, 8])}),
    "a fraction for a size": as_text({"a": entry("F32", [2.0], [0, 8])}),
    "text for a size": as_text({"a": entry("F32", ["2"], [0, 8])}),
    "sizes past 64 bits": as_text({"a": entry("F32", [2**64 + 2], [0, 8])}),
    "a product past 64 bits": as_text({"a": entry("F32", [2**62, 8, 0], [0, 0]), "b": ONE}),
    "an entry that is a list": as_text({"a": ["F32", [2], [0, 8]]}),
    "an entry that is a number": as_text({"a": 3}),
    "a missing field": as_text({"a": {"dtype": "F32", "shape": [2]}}),
    "metadata of numbers": as_text({"__metadata__": {"step": 3}, "a": ONE}),
    "metadata that is a list": as_text({"__metadata__": ["pt"], "a": ONE}),
    "a list": as_text([ONE]),
    "space before": b" " + as_text({"a": ONE}),
    "text after": as_text({"a": ONE}) + b"x",
    "zeros after": as_text({"a": ONE}) + b"\0\0",
    "a byte order mark": b"\xef\xbb\xbf" + as_text({"a": ONE}),
    "another encoding": as_text({"a": ONE}).decode().encode("utf-16"),
    "bytes that are no UTF-8": as_text({"a": ONE}).replace(b'"a"', b'"\xff"'),
    "half a character": b'{"\\ud800":%b}' % as_text(ONE),
    "not a number": b'{"__metadata__":{"x":NaN},"a":%b}' % as_text(ONE),
    "nested without end": b'{"a":' * 50_000,
    "lists without end": b"[" * 100_000,
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_header_is_refused_by_name(text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(with_header(text, bytes(8)))
    with pytest.raises(CheckpointError, match=r"x\.safetensors") as raised:
        open_file(file)
    assert len(str(raised.value)) < 800


def test_a_length_that_lies_costs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    for length in (0, 1, LENGTH - 1, LENGTH + 1, LARGEST_HEADER, LARGEST_HEADER + 1, 2**63, 2**64 - 1):
        file.write_bytes(struct.pack("<Q", length) + WRITTEN[8:])
        with pytest.raises(CheckpointError, match=r"truncated|foreign bytes"):
            open_file(file)


def mutated(chance: random.Random) -> bytes:
    """A small file with up to three things changed in its header, and damaged bytes."""
    header = json.loads(json.dumps(HEADER))
    for _ in range(chance.randrange(4)):
        name = chance.choice(list(header))
        value = header[name]
        kind = chance.randrange(8)
        if kind == 0 or not isinstance(value, dict) or "dtype" not in value:
            header[name] = chance.choice(VALUES)
        elif kind == 1:
            value["dtype"] = chance.choice(DTYPES)
        elif kind == 2:
            value["shape"] = [chance.choice(NUMBERS) for _ in range(chance.randrange(4))]
        elif kind == 3:
            value["data_offsets"] = [chance.choice(NUMBERS) for _ in range(chance.choice((2, 2, 2, 1, 3)))]
        elif kind == 4:
            value[chance.choice(["dtype", "shape", "data_offsets", "extra"])] = chance.choice(VALUES)
        elif kind == 5:
            del header[name]
        elif kind == 6:
            header[chance.choice(["d", "e", "__metadata__", ""])] = value
        elif isinstance(value.get("shape"), list):
            chance.shuffle(value["shape"])
    text = as_text(header)
    content = bytearray(with_header(text + b" " * chance.choice((0, 0, 3))))
    for _ in range(chance.choice((0, 0, 0, 1, 2))):  # and damage of the bytes themselves
        place = chance.randrange(8 + len(text) if chance.random() < 0.9 else len(content))
        content[place] = chance.randrange(256)
    return bytes(content[: len(content) - chance.choice((0, 0, 0, 0, 1, 8))])


def check_files(seed: int, count: int, folder: Path) -> int:
    """How many mutated files our reader accepted; each of them as the library does, with the same bytes."""
    chance, file, accepted = random.Random(seed), folder / "x.safetensors", 0
    for number in range(count):
        file.write_bytes(mutated(chance))
        try:
            ours = open_file(file)
        except CheckpointError:
            continue
        try:
            with safe_open(file, "pt") as opened:
                theirs = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise AssertionError(
                f"file {number} of seed {seed} was accepted; the library: {error}"
            ) from error
        assert ours.keys() == theirs.keys(), number
        for name, tensor in ours.items():
            value = tensor.read()
            assert (value.dtype, value.shape) == (theirs[name].dtype, theirs[name].shape), number
            flat = (value.reshape(-1).view(torch.uint8), theirs[name].reshape(-1).view(torch.uint8))
            assert torch.equal(*flat), number
        accepted += 1
    return accepted


def test_of_damaged_files_only_those_are_read_that_the_library_reads(tmp_path: Path) -> None:
    assert check_files(0, 1200, tmp_path) > 50


@pytest.mark.slow
def test_of_many_damaged_files_only_those_are_read_that_the_library_reads(tmp_path: Path) -> None:
    assert sum(check_files(seed, 4000, tmp_path) for seed in range(1, 11)) > 1000
