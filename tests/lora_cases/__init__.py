"""Five LoRA files as users sent them, one adapter of `tiny` in the forms of several trainers.

All hold the same factors, so these are kept once (`factors.safetensors`), and of the others only the headers.
Writing one back is checked against the sum of the file as it came.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CASES: dict[str, Any] = json.loads(gzip.decompress((HERE / "headers.json.gz").read_bytes()))


def write_case(name: str, folder: Path) -> Path:
    """One of the files, byte for byte."""
    case = CASES[name]
    header = json.loads(case["header"])
    header.pop("__metadata__", None)
    entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"][0])
    factors = _factors()
    data = b"".join(_bytes(key, name, entry["shape"], factors) for key, entry in entries)
    text = case["header"].encode()
    content = struct.pack("<Q", len(text)) + text + data
    assert hashlib.sha256(content).hexdigest() == case["sha256"], f"{name} is not as it came"
    path = folder / name
    path.write_bytes(content)
    return path


def _factors() -> dict[str, bytes]:
    """The data by a name without prefix and without dots."""
    raw = (HERE / "factors.safetensors").read_bytes()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:start])
    return {
        _plain(key): raw[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
        for key, entry in header.items()
        if key != "__metadata__"
    }


def _bytes(key: str, name: str, shape: list[int], factors: dict[str, bytes]) -> bytes:
    if key.endswith(".alpha"):
        return np.float32(8.0).tobytes()
    if name.startswith("nan"):
        return np.full(shape, np.nan, dtype=np.float32).tobytes()
    return factors[_plain(key)]


def _plain(key: str) -> str:
    key = re.sub(r"^(base_model\.model\.|transformer\.|lora_unet_)", "", key)
    return key.replace("lora_down", "lora_A").replace("lora_up", "lora_B").replace(".", "_")
