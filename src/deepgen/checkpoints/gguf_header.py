"""The tensors that a GGUF file declares, read from its header without the package `gguf`.

A GGUF file holds the weights of one part and no configs, so it is never a model by itself. This says which
part it seems to be and where to put it. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

MAGIC = b"GGUF"
LARGEST_TEXT = 2**24  # bytes of one name or value
MOST_ENTRIES = 10**6  # tensors, or values of one list
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes, by type of value
_STRING, _ARRAY = 8, 9
# The first that occurs in a name tells the part.
_MARKS = {
    "connector": ("tap_projector", "projector_1", "think_tokens", "meta_queries"),
    "vae": ("decoder.up", "encoder.down", "quant_conv"),
    "DiT": ("transformer_blocks.", "joint_blocks.", "context_embedder", "x_embedder"),
    "VLM": ("language_model.", "visual.", "model.layers.", "blk.", "token_embd", "v.blk."),
}


def describe_gguf(path: Path) -> str:
    """What a GGUF file holds and what to do with it, for an error where a whole model was asked for.

    Raises OSError where the file cannot be read.
    """
    try:
        names = _tensor_names(path)
    except (ValueError, struct.error):
        return (
            f"{path} ends in .gguf, but has no readable GGUF header ({path.stat().st_size} bytes): "
            "truncated or another file; download it again"
        )
    part = next((part for part in _MARKS if any(mark in n for mark in _MARKS[part] for n in names)), None)
    use = f"--model NAME --transformer-gguf {path}"
    head = f"{path} is a GGUF file: it holds the weights of one part ({len(names)} tensors), no whole model"
    if part == "DiT":
        return f"{head}. It seems to be the DiT: use it with {use}"
    if part is None:
        first = f", such as {names[0]}" if names else ""
        return f"{head}{first}. If it is the DiT, use it with {use}"
    attribute = part.lower()
    return (
        f"{head}. It seems to be the {part}; only the DiT is taken on the command line ({use}). In Python: "
        f"deepgen.checkpoints.gguf_files.read_gguf(pipe.{attribute}, path)"
    )


def _tensor_names(path: Path) -> list[str]:
    """The names of its tensors. Raises ValueError or struct.error for what is no GGUF header."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError("not GGUF")
        version, tensors, entries = struct.unpack("<IQQ", file.read(20))
        if version not in (2, 3) or max(tensors, entries) > MOST_ENTRIES:
            raise ValueError("unknown version, or counts that no file has")
        for _ in range(entries):
            _text(file)
            _skip(file, struct.unpack("<I", file.read(4))[0])
        names = []
        for _ in range(tensors):
            names.append(_text(file))
            (dimensions,) = struct.unpack("<I", file.read(4))
            if dimensions > 8:
                raise ValueError("a tensor of more than eight dimensions")
            struct.unpack(f"<{dimensions}QIQ", file.read(8 * dimensions + 12))
        return names


def _text(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > LARGEST_TEXT:
        raise ValueError("text that is too long")
    text = file.read(length)
    if len(text) < length:
        raise ValueError("the file ends in a text")
    return text.decode("utf-8", "replace")


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _text(file)
    elif kind == _ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        if count > MOST_ENTRIES or inner == _ARRAY:
            raise ValueError("a list that no file has")
        for _ in range(count if inner == _STRING else 0):
            _text(file)
        if inner != _STRING:
            file.seek(_SIZES.get(inner, 0) * count, 1)
    elif kind in _SIZES:
        file.seek(_SIZES[kind], 1)
    else:
        raise ValueError(f"unknown type of value {kind}")
