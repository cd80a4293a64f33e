"""What PyTorch is here and which devices it sees. Runs in a worker process."""

from __future__ import annotations

import os
import platform
import warnings
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """One device that a model can be drawn on.

    Attributes:
        name: as PyTorch takes it: "cpu", "cuda:0", "mps".
        hardware: what its maker calls it.
        total_bytes, free_bytes: of its memory; of the machine's where it has none of its own.
        has_own_memory: whether parts can wait elsewhere.
        architecture: of an NVIDIA card its compute capability ("sm_90"), of an AMD one its name ("gfx1100").
        has_bfloat16: computed by the hardware, not emulated.
        drawn_in: the number format that `--dtype auto` takes for a small model.
    """

    name: str
    hardware: str
    total_bytes: int
    free_bytes: int
    has_own_memory: bool
    architecture: str = ""
    has_bfloat16: bool = True
    drawn_in: str = "float32"


@dataclass(frozen=True, kw_only=True)
class TorchFacts:
    """The build, and what it finds.

    Attributes:
        version: with its suffix, such as "2.13.0+cpu".
        cuda, hip: versions it was built for; None where it was not.
        has_mps: built for Apple's.
        architectures: of cards it has kernels for.
        warnings: what it said while it looked, such as that a driver is too old.
        broken: devices that it counts and cannot ask, with the reason.
        devices: the ones it can compute on, the one `--device auto` takes first.
        threads: of the processor.
        instructions: of the processor that its kernels use.
        tf32: whether float32 products and convolutions are rounded to TF32.
    """

    version: str
    cuda: str | None = None
    hip: str | None = None
    has_mps: bool = False
    architectures: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    devices: tuple[DeviceFacts, ...] = ()
    threads: int = 1
    instructions: str = ""
    cudnn: int | None = None
    tf32: dict[str, bool] = field(default_factory=dict)

    @property
    def build(self) -> str:
        """For what it was built, in a word or two."""
        if self.hip is not None:
            return f"ROCm {self.hip}"
        if self.cuda is not None:
            return f"CUDA {self.cuda}"
        return "MPS" if self.has_mps else "CPU"


def gather() -> TorchFacts:
    """Ask PyTorch."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        import torch

        cards, broken = _cuda(torch)
        devices = (*cards, *_mps(torch), _cpu(torch))
    return TorchFacts(
        version=torch.__version__,
        cuda=torch.version.cuda,
        hip=torch.version.hip,
        has_mps=torch.backends.mps.is_built(),
        architectures=tuple(torch.cuda.get_arch_list()) if torch.cuda.is_available() else (),
        warnings=tuple(dict.fromkeys(" ".join(str(one.message).split())[:500] for one in said)),
        broken=tuple(broken),
        devices=devices,
        threads=torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        cudnn=torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        tf32={
            "products": torch.backends.cuda.matmul.allow_tf32,
            "convolutions": torch.backends.cudnn.allow_tf32,
        },
    )


def _cuda(torch: Any) -> tuple[list[DeviceFacts], list[str]]:
    """Cards of NVIDIA, and of AMD in a build for ROCm, which PyTorch calls cuda as well; and those that
    cannot be asked.
    """
    found, broken = [], []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        try:
            found.append(_card(torch, number))
        except Exception as error:  # a card that fell off the bus, one that another process holds alone
            broken.append(f"cuda:{number}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return found, broken


def _card(torch: Any, number: int) -> DeviceFacts:
    """What one card says of itself."""
    properties = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    major, minor = torch.cuda.get_device_capability(number)
    is_amd = torch.version.hip is not None
    return DeviceFacts(
        name=f"cuda:{number}",
        hardware=torch.cuda.get_device_name(number),
        total_bytes=total,
        free_bytes=free,
        has_own_memory=True,
        architecture=properties.gcnArchName.split(":")[0] if is_amd else f"sm_{major}{minor}",
        has_bfloat16=has_bfloat16,
        drawn_in="bfloat16" if has_bfloat16 else "float16",
    )


def _mps(torch: Any) -> list[DeviceFacts]:
    if not torch.backends.mps.is_available():
        return []
    free, total = _machine_memory()
    return [
        DeviceFacts(
            name="mps",
            hardware=platform.processor() or "Apple silicon",
            total_bytes=total,
            free_bytes=free,
            has_own_memory=False,
        )
    ]


def _cpu(torch: Any) -> DeviceFacts:
    from deepgen.doctor.machine import processor_name
    from deepgen.models.precision import multiplies_bfloat16

    free, total = _machine_memory()
    return DeviceFacts(
        name="cpu",
        hardware=f"{processor_name()}, {os.cpu_count()} cores",
        total_bytes=total,
        free_bytes=free,
        has_own_memory=False,
        architecture=torch.backends.cpu.get_cpu_capability(),
        has_bfloat16=multiplies_bfloat16(),
    )


def _machine_memory() -> tuple[int, int]:
    from deepgen.doctor.machine import main_memory

    total, free = main_memory()
    return free, total
