"""(e) Seconds from a cold start, and what loading a folder costs in time and memory.

Every row is a fresh process. The folder holds random bfloat16 weights of the shortened model; before it is
loaded its files are dropped from the system's cache, so that the disk is part of the time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from deepgen.checkpoints.checkpoint import LoadReport
from deepgen.checkpoints.convert import Checkpoint, _write_deepgen
from deepgen.checkpoints.layouts import detect
from deepgen.checkpoints.parts import WEIGHTED, Part, build, named_config
from deepgen.checkpoints.tensors import LazyTensor
from deepgen.models.config import DEEPGEN_1_0, Architecture
from deepgen.pipeline import TINY_DIR
from harness.models import Subject, _with_small_tokenizer, shortened
from harness.store import Store

COMMANDS = {
    "import deepgen": [sys.executable, "-c", "import deepgen"],
    "deepgen --help": [sys.executable, "-m", "deepgen", "--help"],
    "import the pipeline": [sys.executable, "-c", "import deepgen.pipeline"],
    "first picture of shapes": [
        sys.executable,
        "-m",
        "deepgen",
        "generate",
        "a red circle",
        "--model",
        "shapes",
        "-o",
        "{out}",
    ],
}
LOAD = """
import json, sys, time
from pathlib import Path
import torch
from deepgen.pipeline import DeepGenPipeline
Path("/proc/self/clear_refs").write_text("5")
def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
before = status("VmRSS")
started = time.perf_counter()
pipe = DeepGenPipeline.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
seconds = time.perf_counter() - started
parts = (pipe.vlm, pipe.connector, pipe.transformer, pipe.vae)
weights = sum(t.nbytes for part in parts for t in part.state_dict().values())
print(json.dumps({"seconds": seconds, "peak": status("VmHWM") - before, "weights": weights}))
"""


def run(subject: Subject, store: Store, settings: dict[str, Any]) -> None:
    """Cells for the commands, and one for loading."""
    with tempfile.TemporaryDirectory() as folder:
        for name, command in COMMANDS.items():
            filled = [part.format(out=Path(folder) / "out.png") for part in command]
            store.cell(name, lambda filled=filled: {"seconds": min(_seconds(filled) for _ in range(2))})
    store.cell(f"load, shortened by {settings['load_shorten']}", lambda: _load(settings["load_shorten"]))


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def _load(shorten: int) -> dict[str, float]:
    """Seconds, gigabytes a second and peak over weights of loading a random folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = random_folder(_with_small_tokenizer(shortened(DEEPGEN_1_0, shorten)), Path(folder) / "model")
        return load_in_a_process(path)


def load_in_a_process(path: Path) -> dict[str, float]:
    """Of a folder on the disk, in a process of its own."""
    drop_from_cache(path)
    done = subprocess.run([sys.executable, "-c", LOAD, str(path)], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    found["peak_over_weights"] = found["peak"] / found["weights"]
    found["bytes_per_second"] = found["weights"] / found["seconds"]
    return found


def drop_from_cache(folder: Path) -> None:
    """Write the files out and forget them."""
    for file in folder.rglob("*.safetensors"):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def random_folder(architecture: Architecture, folder: Path) -> Path:
    """A model folder of that size, in bfloat16; tokenizer and scheduler are the small model's."""
    noise = torch.randn(1 << 22).mul_(0.02).to(torch.bfloat16)

    def random(shape: tuple[int, ...]) -> torch.Tensor:
        count = torch.Size(shape).numel()
        return noise.repeat(count // len(noise) + 1)[:count].reshape(shape)

    parts = {}
    for name in WEIGHTED:
        config = named_config(name, architecture)
        tensors = {
            key: LazyTensor(
                key,
                tuple(value.shape),
                torch.bfloat16,
                "random numbers",
                lambda shape=tuple(value.shape): random(shape),
            )
            for key, value in build(name, config).state_dict().items()
        }
        parts[name] = Part(name, tensors, config, "random numbers")
    checkpoint = Checkpoint(detect(TINY_DIR), parts, {}, LoadReport())
    checkpoint.tokenizer, checkpoint.scheduler = TINY_DIR / "tokenizer", TINY_DIR / "scheduler"
    folder.mkdir(parents=True)
    _write_deepgen(checkpoint, folder, None, 4 * 10**9, lambda count: None)
    return folder
