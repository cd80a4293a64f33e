"""Runs every part and kernel on a device in a number format, and compares."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from deepgen.doctor import kernels, recorded
from deepgen.doctor.kernels import KERNELS
from deepgen.doctor.parts import PARTS

State = Literal["right", "wrong", "failed", "missing"]
Say = Callable[[dict[str, Any]], None]

# In the words of PyTorch's errors about an operation that a device or a format does not have.
_NOT_THERE = ("not implemented for", "not currently implemented", "does not support", "not supported")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One part or kernel on one device in one number format.

    Attributes:
        state: "right" within the limit, "wrong" beyond it, "failed" where it raised or its process died,
            "missing" where the device has no such operation in this format.
        error, largest: see `recorded.Errors`; None where there is none.
        expected, limit: of `error`.
        largest_limit: of `largest`.
        seconds: of the run itself, without waiting for what came before.
        message: why it failed.
    """

    device: str
    format: str
    part: str
    state: State
    error: float | None = None
    largest: float | None = None
    expected: float | None = None
    limit: float | None = None
    largest_limit: float | None = None
    seconds: float = 0.0
    message: str = ""


def uses_tf32(device: str, part: str) -> bool:
    """Whether float32 products in a part round what they multiply to TF32's ten bits: on NVIDIA cards from
    Ampere on that is PyTorch's default in convolutions, and elsewhere where it was asked for.
    """
    if not device.startswith("cuda") or torch.version.hip is not None:
        return False
    if torch.cuda.get_device_capability(device)[0] < 8:
        return False
    convolves = any(check.convolves for check in (*KERNELS, *PARTS) if check.name == part)
    return bool(torch.backends.cuda.matmul.allow_tf32 or (convolves and torch.backends.cudnn.allow_tf32))


def measure_device(
    device: str, formats: Sequence[str], say: Say, *, model: Path, recording: recorded.Recording | None = None
) -> None:
    """Say of every part in every format what came out.

    Args:
        device: as PyTorch names it, such as "cuda:0".
        formats: of `recorded.FORMATS`.
        say: given `{"begin": part, "device": ..., "format": ...}` before each and `{"measured": ...}` after;
            where the process dies between the two, the first names the culprit.
        model: folder of the embedded model.
        recording: what is right; default the one inside the package.
    """
    recording = recording or recorded.read()
    for name in formats:
        for part, run in _runs(recording, device, name, model):
            say({"begin": part, "device": device, "format": name})
            measured = _measure(part, run, recording, device, name)
            say({"measured": vars(measured)})
            if measured.state == "failed" and _is_poisoned(device):
                raise RuntimeError(f"{device} answers no more after {part} in {name}: {measured.message}")


Run = Callable[[], tuple[list[torch.Tensor], list[torch.Tensor]]]


def _runs(recording: recorded.Recording, device: str, name: str, model: Path) -> list[tuple[str, Run]]:
    """Kernels first: where one of them is wrong, so are the parts that use it."""
    dtype, pipe = getattr(torch, name), []

    def kernel(check: kernels.KernelCheck) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        inputs = kernels.inputs_of(check)
        ours = check.looked_at(check.run(*kernels.placed(inputs, device, dtype)))
        return [recorded.kept(ours)], [recorded.kept(kernels.reference(check, inputs))]

    def part(check: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        if not pipe:
            pipe.append(load(model, device, dtype))
        ours = check.run(pipe[0], place_inputs(recording, check.inputs, device, dtype))
        return [recorded.kept(x) for x in ours], recording.outputs[check.name]

    found: list[tuple[str, Run]] = [(check.name, lambda check=check: kernel(check)) for check in KERNELS]
    return [*found, *((check.name, lambda check=check: part(check)) for check in PARTS)]


def place_inputs(
    recording: recorded.Recording, names: Sequence[str], device: str, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Inputs of a part; timesteps are float32 in every format, as the pipeline gives them."""
    given = {}
    for name in names:
        value = recording.inputs[name]
        is_narrowed = value.is_floating_point() and name != "timesteps"
        given[name] = value.to(device=device, dtype=dtype if is_narrowed else value.dtype)
    return given


def load(model: Path, device: str, dtype: torch.dtype) -> Any:
    """The embedded model, ready to draw."""
    from deepgen.pipeline import DeepGenPipeline

    pipe = DeepGenPipeline.from_pretrained(model, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


@torch.no_grad()
def _measure(part: str, run: Run, recording: recorded.Recording, device: str, name: str) -> Measured:
    started = time.perf_counter()
    try:
        found = recorded.errors(*run())
    except Exception as error:  # whatever a device, a driver or a library raises is what is looked for
        text = " ".join(str(error).split())
        is_missing = isinstance(error, NotImplementedError) or any(words in text for words in _NOT_THERE)
        return Measured(
            device=device,
            format=name,
            part=part,
            state="missing" if is_missing else "failed",
            seconds=time.perf_counter() - started,
            message=f"{type(error).__name__}: {text}"[:400],
        )
    # TF32 has as many bits as float16.
    rounded_as = "float16" if name == "float32" and uses_tf32(device, part) else name
    expected = recording.expected[part][rounded_as]
    limit = recorded.limits(expected, rounded_as)
    is_right = found.is_finite and found.mean <= limit.mean and found.largest <= limit.largest
    return Measured(
        device=device,
        format=name,
        part=part,
        state="right" if is_right else "wrong",
        error=found.mean if found.is_finite else None,
        largest=found.largest if found.is_finite else None,
        expected=expected.mean,
        limit=limit.mean,
        largest_limit=limit.largest,
        seconds=time.perf_counter() - started,
        message="" if found.is_finite else "holds NaN or infinity",
    )


def _is_poisoned(device: str) -> bool:
    """Whether the device's context is lost, as after an illegal address: every later call then fails too."""
    try:
        torch.ones(1, device=device).add(1).cpu()
    except Exception:  # as in `_measure`
        return True
    return False
