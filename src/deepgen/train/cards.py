"""Accelerators by name, as their makers describe them: memory and dense 16-bit matrix arithmetic.

A card sold with 24 GB holds 24 GiB. Counting 24e9 bytes leaves the difference, 7 %, to the driver's context
and to fragmentation.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

# What a core of the machine of docs/hardware.md reached in float32 products.
_TFLOPS_PER_CORE = 0.028
# Python with torch, transformers, diffusers and peft.
_PROCESS_GB = 0.6


@dataclass(frozen=True, kw_only=True)
class Card:
    """One accelerator, or the machine's own processor.

    Attributes:
        memory_gb: in 1e9 bytes.
        tflops: dense bfloat16 products accumulated in float32, without sparsity, in 1e12 FLOP/s.
        mfu: share of `tflops` that training reaches; an assumption, to be replaced by what a run logs.
        overhead_gb: of the process itself, before any tensor.
        is_cuda: whether autocast follows CUDA's rules, which widen layer norms.
    """

    name: str
    memory_gb: float
    tflops: float
    mfu: float = 0.35
    overhead_gb: float = 0.0  # see above
    is_cuda: bool = True

    def __post_init__(self) -> None:
        """Refuse what no card has."""
        if self.memory_gb <= 0 or self.tflops <= 0 or not 0 < self.mfu <= 1:
            raise ValueError(
                "memory_gb and tflops must be positive and mfu in (0, 1], "
                f"got {self.memory_gb}, {self.tflops} and {self.mfu}"
            )


def _this_machine() -> Card:
    """The processors and memory of this machine; 16 GB where the system does not say."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        memory = 16e9
    tflops = _TFLOPS_PER_CORE * (os.cpu_count() or 1)
    return Card(
        name="cpu", memory_gb=memory / 1e9, tflops=tflops, mfu=0.5, overhead_gb=_PROCESS_GB, is_cuda=False
    )


_CARDS = (
    Card(name="l4", memory_gb=24, tflops=121),
    Card(name="rtx-3090", memory_gb=24, tflops=71),
    Card(name="rtx-4090", memory_gb=24, tflops=165),
    Card(name="rtx-5090", memory_gb=32, tflops=210),
    Card(name="a100-40gb", memory_gb=40, tflops=312),
    Card(name="l40s", memory_gb=48, tflops=362),
    Card(name="a100-80gb", memory_gb=80, tflops=312),
    Card(name="h100", memory_gb=80, tflops=989),
    Card(name="h200", memory_gb=141, tflops=989),
    Card(name="b200", memory_gb=180, tflops=2250),
    _this_machine(),
)
CARDS = {card.name: card for card in _CARDS}


def card_of_device(device_name: str) -> Card | None:
    """The card behind a driver's name, such as "NVIDIA A100-SXM4-80GB"; None for one that is not listed.

    Laptops carry the names of faster desktop cards, and an H100 on PCIe is slower than the one listed.
    """
    words = set(re.split(r"[^a-z0-9]+", device_name.lower()))
    if "laptop" in words or {"h100", "pcie"} <= words:
        return None
    return next(
        (card for name, card in CARDS.items() if card.is_cuda and set(name.split("-")) <= words), None
    )


def card(name: str) -> Card:
    """The card of that name, or a ValueError that lists the known ones."""
    if name not in CARDS:
        raise ValueError(f"unknown card {name!r}; known: {', '.join(CARDS)}")
    return CARDS[name]
