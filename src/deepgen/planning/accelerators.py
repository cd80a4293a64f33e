"""Accelerators by name, as their makers describe them: memory and its bandwidth, the link to main memory, and
dense 16-bit matrix arithmetic.

A card sold with 24 GB holds 24 GiB. Counting 24e9 bytes leaves the difference, 7 %, to the driver's context
and to fragmentation. Sources:

    GeForce       NVIDIA's whitepapers of GA102, AD102 and GB202 state products accumulated in float32 for the
                  largest card of each: 512 FLOP per SM and clock in all three. The others are their SMs times
                  their boost clock times 512. Bandwidths are those of NVIDIA's product pages.
    data centre   NVIDIA's data sheets of T4, A10, L4, L40S, A100, H100 (SXM), H200 and B200, without sparsity
    Radeon, MI    AMD's product pages (RX 7900, Instinct MI300X): peak half precision, matrix
    Apple         memory and bandwidth of Apple's announcements, arithmetic of M1 and M2 too; of later chips
                  it is cores x 128 lanes x 2 x an assumed clock of 1.4 GHz, for 32 and 16 bits alike
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, replace

# What a core of the machine of docs/hardware.md reached in float32 products.
_TFLOPS_PER_CORE = 0.028
# Python with torch, transformers, diffusers and peft.
_PROCESS_GB = 0.6
# Of two channels of DDR4-3200, in 1e9 bytes/s; it hardly matters, since a CPU waits for its arithmetic.
_CPU_BANDWIDTH = 51.2


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One accelerator, or the machine's own processor.

    Attributes:
        memory_gb: in 1e9 bytes.
        tflops: dense bfloat16 products accumulated in float32, without sparsity, in 1e12 FLOP/s; float16
            where the card has no bfloat16.
        bandwidth: of its memory, in 1e9 bytes/s.
        link: to the main memory, one way, in 1e9 bytes/s; None where there is one memory for both.
        mfu: share of `tflops` that training reaches; an assumption, to be replaced by what a run logs.
        overhead_gb: of the process itself, before any tensor.
        is_cuda: whether autocast follows CUDA's rules, which widen layer norms.
    """

    name: str
    memory_gb: float
    tflops: float
    bandwidth: float
    link: float | None = 32.0  # PCIe 4.0 with 16 lanes
    mfu: float = 0.35
    overhead_gb: float = 0.0  # see above
    is_cuda: bool = True

    @property
    def has_own_memory(self) -> bool:
        """Whether parts can wait in another memory."""
        return self.link is not None

    def __post_init__(self) -> None:
        """Refuse what no card has."""
        if min(self.memory_gb, self.tflops, self.bandwidth) <= 0 or not 0 < self.mfu <= 1:
            raise ValueError(
                "memory_gb, tflops and bandwidth must be positive and mfu in (0, 1], "
                f"got {self.memory_gb}, {self.tflops}, {self.bandwidth} and {self.mfu}"
            )


def _this_machine() -> Accelerator:
    """The processors and memory of this machine; 16 GB where the system does not say."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        memory = 16e9
    tflops = _TFLOPS_PER_CORE * (os.cpu_count() or 1)
    return Accelerator(
        name="cpu",
        memory_gb=memory / 1e9,
        tflops=tflops,
        bandwidth=_CPU_BANDWIDTH,
        link=None,
        mfu=0.5,
        overhead_gb=_PROCESS_GB,
        is_cuda=False,
    )


def _apple(name: str, memory_gb: float, tflops: float, bandwidth: float) -> Accelerator:
    return Accelerator(
        name=name, memory_gb=memory_gb, tflops=tflops, bandwidth=bandwidth, link=None, is_cuda=False
    )


_ACCELERATORS = (
    Accelerator(name="rtx-3060", memory_gb=12, tflops=25.5, bandwidth=360),
    Accelerator(name="rtx-3060-ti", memory_gb=8, tflops=32.4, bandwidth=448),
    Accelerator(name="rtx-3070", memory_gb=8, tflops=40.6, bandwidth=448),
    Accelerator(name="rtx-3070-ti", memory_gb=8, tflops=43.5, bandwidth=608),
    Accelerator(name="rtx-3080", memory_gb=10, tflops=59.5, bandwidth=760),
    Accelerator(name="rtx-3080-ti", memory_gb=12, tflops=68.2, bandwidth=912),
    Accelerator(name="rtx-3090", memory_gb=24, tflops=71, bandwidth=936),
    Accelerator(name="rtx-3090-ti", memory_gb=24, tflops=80, bandwidth=1008),
    Accelerator(name="rtx-4060", memory_gb=8, tflops=30.2, bandwidth=272, link=16),
    Accelerator(name="rtx-4060-ti", memory_gb=8, tflops=44.1, bandwidth=288, link=16),
    Accelerator(name="rtx-4060-ti-16gb", memory_gb=16, tflops=44.1, bandwidth=288, link=16),
    Accelerator(name="rtx-4070", memory_gb=12, tflops=58.3, bandwidth=504),
    Accelerator(name="rtx-4070-super", memory_gb=12, tflops=71, bandwidth=504),
    Accelerator(name="rtx-4070-ti", memory_gb=12, tflops=80.2, bandwidth=504),
    Accelerator(name="rtx-4070-ti-super", memory_gb=16, tflops=88.2, bandwidth=672),
    Accelerator(name="rtx-4080", memory_gb=16, tflops=97.5, bandwidth=717),
    Accelerator(name="rtx-4080-super", memory_gb=16, tflops=104.4, bandwidth=736),
    Accelerator(name="rtx-4090", memory_gb=24, tflops=165, bandwidth=1008),
    Accelerator(name="rtx-5060", memory_gb=8, tflops=38.4, bandwidth=448),
    Accelerator(name="rtx-5060-ti", memory_gb=8, tflops=47.4, bandwidth=448),
    Accelerator(name="rtx-5060-ti-16gb", memory_gb=16, tflops=47.4, bandwidth=448),
    Accelerator(name="rtx-5070", memory_gb=12, tflops=61.7, bandwidth=672, link=64),
    Accelerator(name="rtx-5070-ti", memory_gb=16, tflops=87.9, bandwidth=896, link=64),
    Accelerator(name="rtx-5080", memory_gb=16, tflops=112.6, bandwidth=960, link=64),
    Accelerator(name="rtx-5090", memory_gb=32, tflops=210, bandwidth=1792, link=64),
    Accelerator(name="t4", memory_gb=16, tflops=65, bandwidth=300, link=16),  # float16: it has no bfloat16
    Accelerator(name="a10", memory_gb=24, tflops=125, bandwidth=600),
    Accelerator(name="l4", memory_gb=24, tflops=121, bandwidth=300),
    Accelerator(name="l40s", memory_gb=48, tflops=362, bandwidth=864),
    Accelerator(name="a100-40gb", memory_gb=40, tflops=312, bandwidth=1555),
    Accelerator(name="a100-80gb", memory_gb=80, tflops=312, bandwidth=2039),
    Accelerator(name="h100", memory_gb=80, tflops=989, bandwidth=3350, link=64),
    Accelerator(name="h200", memory_gb=141, tflops=989, bandwidth=4800, link=64),
    Accelerator(name="b200", memory_gb=180, tflops=2250, bandwidth=8000, link=64),
    Accelerator(name="rx-7900-xt", memory_gb=20, tflops=103, bandwidth=800),
    Accelerator(name="rx-7900-xtx", memory_gb=24, tflops=122.8, bandwidth=960),
    Accelerator(name="mi300x", memory_gb=192, tflops=1307, bandwidth=5300, link=64),
    # Apple's chips are sold with several memories: the one here is common, `m2-max-64gb` names another.
    _apple("m1", 16, 2.6, 68),
    _apple("m1-pro", 32, 5.2, 200),
    _apple("m1-max", 64, 10.4, 400),
    _apple("m1-ultra", 128, 21, 800),
    _apple("m2", 16, 3.6, 100),
    _apple("m2-pro", 32, 6.8, 200),
    _apple("m2-max", 64, 13.6, 400),
    _apple("m2-ultra", 128, 27.2, 800),
    _apple("m3", 16, 3.6, 100),
    _apple("m3-pro", 36, 6.4, 150),
    _apple("m3-max", 64, 14.3, 400),
    _apple("m3-ultra", 96, 28.7, 819),
    _apple("m4", 16, 3.6, 120),
    _apple("m4-pro", 48, 7.2, 273),
    _apple("m4-max", 64, 14.3, 546),
    _this_machine(),
)
ACCELERATORS = {accelerator.name: accelerator for accelerator in _ACCELERATORS}


_OTHERS = {"laptop", "mobile", "max", "q", "d"}  # words of slower cards with the names of faster ones
_WITH_MEMORY = re.compile(r"(m\d(?:-(?:pro|max|ultra))?)-(\d+)gb")


def accelerator_of_device(device_name: str) -> Accelerator | None:
    """The card behind a driver's name, such as "NVIDIA A100-SXM4-80GB"; None for one that is not listed.

    Laptops carry the names of faster desktop cards, and an H100 on PCIe is slower than the one listed.
    """
    words = set(re.split(r"[^a-z0-9]+", device_name.lower()))
    if words & _OTHERS or {"h100", "pcie"} <= words:
        return None
    known = [
        accelerator
        for name, accelerator in ACCELERATORS.items()
        if accelerator.is_cuda and set(name.split("-")) <= words
    ]
    return max(
        known, key=lambda accelerator: len(accelerator.name.split("-")), default=None
    )  # "4070 Ti Super", not "4070"


def accelerator_of_chip(chip_name: str, memory_bytes: int) -> Accelerator | None:
    """The card of an Apple chip, such as "Apple M2 Max", with the memory it has; None if not listed."""
    found = ACCELERATORS.get("-".join(chip_name.lower().split()[1:]))
    if found is None or found.is_cuda:
        return None
    return replace(found, memory_gb=memory_bytes / 1e9)


def accelerator(name: str) -> Accelerator:
    """The card of that name, or a ValueError that lists the nearest names, where there are any, and all.

    Spaces, dashes and the maker's name do not matter: `RTX4060` and `NVIDIA GeForce RTX 4060` are `rtx-4060`.
    A name may end in the card's memory (`h100-80gb`); that of an Apple chip says which is meant
    (`m2-max-32gb`).
    """
    plain = re.sub(r"[\s_-]+", "-", name.strip().lower())
    plain = re.sub(r"^((nvidia|geforce|amd|radeon|apple)-)+", "", plain)
    bare = {known.replace("-", ""): found for known, found in ACCELERATORS.items()}
    if found := bare.get(plain.replace("-", "")):
        return found
    if (match := _WITH_MEMORY.fullmatch(plain)) and match[1] in ACCELERATORS and int(match[2]) > 0:
        return replace(ACCELERATORS[match[1]], name=plain, memory_gb=float(match[2]))
    if match := re.fullmatch(r"(.+?)-?(\d+)gb", plain):
        found = bare.get(match[1].replace("-", ""))
        if found is not None and found.memory_gb == int(match[2]):
            return found
    near = [known for known in ACCELERATORS if plain and known.startswith(f"{plain}-")]
    near = near or difflib.get_close_matches(plain, ACCELERATORS, n=5, cutoff=0.7)
    if near:
        raise ValueError(f"unknown card {name!r}; did you mean {', '.join(near)}?")
    raise ValueError(f"unknown card {name!r}; known: {', '.join(ACCELERATORS)}")
