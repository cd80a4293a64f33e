"""What the machine is and can do: facts, its matrix product, clocks and peak memory."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
import transformers

PEAK_SHAPE = (1024, 1536, 6144)  # positions, inputs and outputs of a matrix product of the DiT


def facts(device: str) -> dict[str, Any]:
    """Which machine and libraries measured."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else platform.processor() or platform.machine()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


def now(device: str) -> float:
    """The clock, once the device has finished what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(run: Callable[[], Any], device: str) -> float:
    """Of one call."""
    started = now(device)
    run()
    return now(device) - started


def in_turns(runs: Mapping[str, Callable[[], Any]], device: str, rounds: int) -> dict[str, float]:
    """Medians of calls that take turns, so that a busy machine slows all of them."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            spent[name].append(seconds(run, device))
    return {name: median(values) for name, values in spent.items()}


@torch.no_grad()
def matmul_peak(dtype: torch.dtype, device: str, rounds: int = 3) -> float:
    """FLOP/s of a large linear layer, the best of some rounds."""
    rows, inputs, outputs = PEAK_SHAPE
    scale = 4 if device == "cuda" else 1
    fill = torch.randn if device == "cuda" else torch.zeros  # accelerators clock higher on zeros
    x = fill(scale * rows, inputs, dtype=dtype, device=device)
    weight = fill(scale * outputs, inputs, dtype=dtype, device=device)
    repeats = 20 if device == "cuda" else 1
    work = 2.0 * x.shape[0] * weight.numel() * repeats

    def run() -> None:
        for _ in range(repeats):
            F.linear(x, weight)

    F.linear(x[:64], weight)  # what the first call sets up
    return work / min(seconds(run, device) for _ in range(rounds))


def choose_arithmetic(device: str) -> torch.dtype:
    """bfloat16 where the machine multiplies it faster than float32."""
    rounds = 1 if device == "cpu" else 3
    narrow = matmul_peak(torch.bfloat16, device, rounds)
    return torch.bfloat16 if narrow > matmul_peak(torch.float32, device, rounds) else torch.float32


def resident_bytes() -> int:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def anonymous_bytes() -> int:
    """Memory of this process that is its own: without pages of files, which the system may drop."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def peak_bytes(device: str) -> int:
    """Most memory so far: of the accelerator, or resident on the CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
