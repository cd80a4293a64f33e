"""Facts of machines that are not at hand, for the doctor to judge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from deepgen.checkpoints.memory import meta_models
from deepgen.doctor.examination import Examination
from deepgen.doctor.findings import findings
from deepgen.doctor.machine import MachineFacts
from deepgen.doctor.memory import suggestion
from deepgen.doctor.packages import KNOWN, TAKEN_UP, PackageFacts
from deepgen.doctor.torch_facts import DeviceFacts, TorchFacts

GB = 10**9
LINUX = MachineFacts(
    system="Linux-6.8 (x86_64)", python="3.12.3", memory_bytes=64 * GB, free_memory_bytes=60 * GB
)
CPU = DeviceFacts(
    name="cpu", hardware="a processor", total_bytes=64 * GB, free_bytes=60 * GB, has_own_memory=False
)
CARD = DeviceFacts(
    name="cuda:0",
    hardware="NVIDIA GeForce RTX 4090",
    total_bytes=24 * GB,
    free_bytes=23 * GB,
    has_own_memory=True,
    architecture="sm_89",
    drawn_in="bfloat16",
)
MPS = replace(CPU, name="mps", hardware="Apple M2 Max")
CUDA_BUILD = TorchFacts(
    version="2.13.0+cu130",
    cuda="13.0",
    architectures=("sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"),
    devices=(CARD, CPU),
    tf32={"products": False, "convolutions": True},
)
CPU_BUILD = TorchFacts(version="2.13.0+cpu", devices=(CPU,), tf32={})
ROCM_BUILD = TorchFacts(version="2.13.0+rocm7.0", hip="7.0.51831", architectures=("gfx90a", "gfx1100"))


@cache
def parts() -> dict[str, Any]:
    return meta_models("deepgen-1.0")


def packages(**versions: str | None) -> list[PackageFacts]:
    """All that are needed as they were tested, no extras; `versions` says otherwise."""
    found = []
    for known in (*KNOWN, *TAKEN_UP):
        is_core = known in KNOWN and known.extra is None
        version = versions.get(known.name.replace("-", "_"), known.tested if is_core else None)
        found.append(
            PackageFacts(
                name=known.name,
                module=known.module,
                version=version,
                least=known.least,
                tested=known.tested,
                extra=known.extra,
                is_used=known in KNOWN,
            )
        )
    return found


def examination(
    torch: TorchFacts | None = CPU_BUILD,
    machine: MachineFacts = LINUX,
    *,
    versions: dict[str, str | None] | None = None,
    plans_memory: bool = False,
    **known: Any,
) -> Examination:
    """As if it had been found; `plans_memory` asks the planner for the devices' memory."""
    found = Examination(machine=machine, packages=packages(**(versions or {})), **known)
    if torch is not None:
        found.torch = {**asdict(torch), "devices": [asdict(one) for one in torch.devices]}
        if plans_memory:
            found.memory = [asdict(suggestion(parts(), one)) for one in torch.devices]
    return found


def problems(found: Examination) -> list[str]:
    return [str(one) for one in findings(found) if one.level == "problem"]


def notes(found: Examination) -> list[str]:
    return [str(one) for one in findings(found) if one.level == "note"]


def only(texts: Iterable[str]) -> str:
    (text,) = texts
    return text
