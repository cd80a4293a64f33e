"""Recorded inputs and outputs of the embedded model, and the errors that are expected of each number format.

Outputs were computed in float64 by tools/record_doctor.py, on the weights whose list of sums is named in the
file. Expected errors were measured beside them on a processor in each format. Another device sums in another
order, so its errors differ; but rounding of the same format makes errors of the same size. The limits are so
many times what was measured, and wrong numbers are far beyond.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

RECORDED = Path(__file__).parents[1] / "assets" / "doctor.safetensors"
FORMATS = ("float32", "bfloat16", "float16")
# An error is a root mean square, or the largest; the second varies more from device to device.
FACTOR, FACTOR_OF_LARGEST = 4.0, 8.0
# float32's own errors are so small that the functions of a device (exp, rsqrt) make much of them.
FACTOR_OF_FLOAT32 = 24.0
KEPT = 2048  # values of an output at most
NOISE_FLOOR = 1e-7  # of an output that has no error on a processor


@dataclass(frozen=True)
class Errors:
    """How far an output is from the recorded one, relative to that one's root mean square.

    Attributes:
        mean: root mean square of the differences; NaN where the output holds NaN or infinity.
        largest: the largest difference.
    """

    mean: float
    largest: float

    @property
    def is_finite(self) -> bool:
        """Whether all values were numbers."""
        return self.mean == self.mean and abs(self.mean) != float("inf")


def limits(expected: Errors, format_name: str) -> Errors:
    """Up to where an error is rounding, of what is expected in that format."""
    factor, of_largest = (
        (FACTOR_OF_FLOAT32, FACTOR_OF_FLOAT32) if format_name == "float32" else (FACTOR, FACTOR_OF_LARGEST)
    )
    return Errors(
        factor * max(expected.mean, NOISE_FLOOR), of_largest * max(expected.largest, 10 * NOISE_FLOOR)
    )


def kept(output: Tensor) -> Tensor:
    """The values of an output that are recorded, float64 on the processor."""
    flat = output.detach().to("cpu").double().flatten()
    return flat[:: max(1, -(-len(flat) // KEPT))]


def errors(ours: list[Tensor], right: list[Tensor]) -> Errors:
    """The worst over the outputs of a part, each as `kept` gives it."""
    found = [_errors(a, b) for a, b in zip(ours, right, strict=True)]
    return Errors(_worst([one.mean for one in found]), _worst([one.largest for one in found]))


def _errors(ours: Tensor, right: Tensor) -> Errors:
    if ours.shape != right.shape:
        raise ValueError(f"{tuple(right.shape)} values were expected, got {tuple(ours.shape)}")
    if not bool(torch.isfinite(ours).all()):
        return Errors(float("nan"), float("nan"))
    difference, size = (ours - right).abs(), float(right.pow(2).mean().sqrt()) or 1.0
    return Errors(float(difference.pow(2).mean().sqrt()) / size, float(difference.max()) / size)


def _worst(values: list[float]) -> float:
    return float("nan") if any(value != value for value in values) else max(values)


@dataclass(frozen=True)
class Recording:
    """What the file holds.

    Attributes:
        inputs: by name.
        outputs: by part, as `kept` gives them.
        expected: by part and number format.
        facts: which weights, libraries and processor recorded it.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, list[Tensor]]
    expected: Mapping[str, Mapping[str, Errors]]
    facts: Mapping[str, str]


# What outputs depend on; other files of the folder, such as LoRAs, change nothing here.
_FOLDERS = ("connector/", "scheduler/", "tokenizer/", "transformer/", "vae/", "vlm/")


def fingerprint(model: Path) -> str:
    """Of the parts of a model folder, from its list of sums; hexadecimal."""
    lines = (model / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    kept_lines = sorted(line for line in lines if line.split("  ", 1)[-1].startswith(_FOLDERS))
    return hashlib.sha256("\n".join(kept_lines).encode()).hexdigest()


def read(path: Path = RECORDED) -> Recording:
    """The recording of the embedded model.

    Raises:
        OSError, ValueError: the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            told = file.metadata() or {}
        expected = {
            part: {name: Errors(*pair) for name, pair in formats.items()}
            for part, formats in json.loads(told["expected"]).items()
        }
    except FileNotFoundError:
        raise
    except Exception as error:  # safetensors' own class, JSON's and what a cut file else raises
        raise ValueError(f"{path.name} is damaged, install the package again: {error}") from error
    inputs = {name.removeprefix("in."): x for name, x in tensors.items() if name.startswith("in.")}
    outputs: dict[str, list[Tensor]] = {}
    for name in sorted(tensors):
        if name.startswith("out."):
            outputs.setdefault(name.split(".")[1], []).append(tensors[name].double())
    return Recording(inputs, outputs, expected, json.loads(told["facts"]))
