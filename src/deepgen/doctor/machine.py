"""What can be known of the machine without PyTorch: system, memory, disks, cards that drivers show.

Everything is asked of files and programs of the system, each of which may be absent.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Variables that change what PyTorch computes or where; none holds a secret, and of paths none is here.
VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION"),
    *(
        "CUDA_LAUNCH_BLOCKING",
        "CUDA_MODULE_LOADING",
        "NVIDIA_TF32_OVERRIDE",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    ),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"),
    *("PYTORCH_ENABLE_MPS_FALLBACK", "PYTORCH_MPS_HIGH_WATERMARK_RATIO"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"),
)


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """The machine.

    Attributes:
        system: operating system, its version and processor architecture.
        python: version.
        processor: its maker's name and the number of its cores.
        memory_bytes, free_memory_bytes: main memory; 0 where the system does not say.
        nvidia: cards that NVIDIA's driver shows, whether or not PyTorch does.
        nvidia_driver: its version, empty where there is none.
        amd: cards that AMD's driver shows.
        apple_chip: whether it is one of Apple's own.
        models_free_bytes: free where downloaded weights are kept.
        has_weights: whether the published model was downloaded.
        variables: of `VARIABLES` those that are set.
    """

    system: str
    python: str
    processor: str = ""
    memory_bytes: int = 0
    free_memory_bytes: int = 0
    nvidia: tuple[str, ...] = ()
    nvidia_driver: str = ""
    amd: tuple[str, ...] = ()
    apple_chip: bool = False
    models_free_bytes: int | None = None
    has_weights: bool = False
    variables: Mapping[str, str] | None = None


def gather(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> MachineFacts:
    """Look.

    Args:
        root: of the file system.
        environment: of the process.
    """
    cards, driver = _nvidia(root)
    memory, free = main_memory()
    cache = hub_folder(environment)
    return MachineFacts(
        system=f"{platform.platform()} ({platform.machine()})",
        python=platform.python_version(),
        processor=f"{processor_name(root)}, {os.cpu_count()} cores",
        memory_bytes=memory,
        free_memory_bytes=free,
        nvidia=cards,
        nvidia_driver=driver,
        amd=_amd(root),
        apple_chip=sys.platform == "darwin" and platform.machine() == "arm64",
        models_free_bytes=_free_disk(cache),
        has_weights=(cache / "models--deepgenteam--DeepGen-1.0-diffusers").is_dir(),
        variables={name: environment[name] for name in VARIABLES if name in environment},
    )


def processor_name(root: Path = Path("/")) -> str:
    """As its maker calls it, where the system says."""
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def hub_folder(environment: Mapping[str, str]) -> Path:
    """Where the Hub's client keeps what it fetched, as its own documentation says."""
    if cache := environment.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    home = environment.get("HF_HOME") or Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def _nvidia(root: Path) -> tuple[tuple[str, ...], str]:
    """Names of the cards and the driver's version: from nvidia-smi, or the driver's own files."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    lines = [line.split(", ") for line in _run(query).splitlines()]
    told = [line for line in lines if len(line) == 3]
    if told:
        return tuple(f"{name} ({memory})" for name, memory, _ in told), told[0][2]
    folder, names = root / "proc/driver/nvidia", []
    for file in sorted(folder.glob("gpus/*/information")):
        text = file.read_text(encoding="utf-8", errors="replace")
        names += [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("Model:")]
    try:
        words = (folder / "version").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        words = []
    version = next((word for word in words if word[:1].isdigit() and "." in word), "")
    return tuple(names), version


def _amd(root: Path) -> tuple[str, ...]:
    """Graphics architectures of the nodes that AMD's driver for computing shows; a processor has 0."""
    found = []
    for file in sorted(root.glob("sys/class/kfd/kfd/topology/nodes/*/properties")):
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:  # another user's container
            continue
        facts = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
        version = facts.get("gfx_target_version", "0").strip()
        if version.isdigit() and int(version):
            major, minor, step = int(version) // 10000, int(version) // 100 % 100, int(version) % 100
            found.append(f"gfx{major}{minor:x}{step:x}")
    return tuple(found)


def _run(command: list[str]) -> str:
    """What a program prints; nothing where it is absent, fails or hangs."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def main_memory() -> tuple[int, int]:
    """All and free main memory in bytes; 0 where the system does not say."""
    try:
        import psutil

        memory = psutil.virtual_memory()
    except Exception:  # psutil is missing or broken: it is in the report, and this goes on without
        return 0, 0
    return memory.total, memory.available


def _free_disk(folder: Path) -> int | None:
    """Of the disk that a folder is or will be on."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None
