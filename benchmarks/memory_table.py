"""Every `--memory` mode with the 5B model, measured: what was planned, what was used, and the picture.

    python benchmarks/memory_table.py --output memory.json                   # random 5B weights, on CUDA
    python benchmarks/memory_table.py --size tiny --device cpu --side 96 --output memory.json

A folder of random bfloat16 weights is written, in main memory (/dev/shm) where that has room. Each mode is a
process of its own, which loads the folder as `deepgen generate --memory MODE` does and draws one guided
picture. On a card that is larger than the mode asks for, the process may take no more than that: a plan that
needs more than it says ends there. A mode that fails is a row with the reason. Rows are written as they come.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

sys.path.insert(0, str(Path(__file__).parent))

# `none` keeps all parts on the device; numbers are GB. 4 and 3 are no choices of the command line, where
# --memory auto takes their plans (nf4, layer by layer) on cards that are that small.
MODES = ("none", "24", "16", "12", "8", "6", "4", "3")
SHARED_MEMORY = Path("/dev/shm")  # files there are in main memory
ROOM = 2.2  # of main memory, in weights: the folder, and a copy of them that waits


@dataclass(frozen=True, kw_only=True)
class MemoryTable:
    """Draw with each mode and write down its memory."""

    size: Literal["full", "tiny"] = "full"
    """full: random weights of DeepGen 1.0's sizes; tiny: of the small model's, to try this script."""
    folder: Path | None = None
    """A model folder instead of random weights."""
    device: Literal["cuda", "cpu"] = "cuda"
    modes: tuple[str, ...] = MODES
    side: int = 1024
    """Pixels."""
    steps: int = 4
    mode_s: float = 150.0
    """Seconds that a mode may take."""
    output: Path
    """Where the rows go, as JSON."""
    one: str | None = None
    """Of this script's own processes: the mode to run."""

    def run(self) -> None:
        """All modes, or one in a process of its own."""
        if self.one is not None:
            assert self.folder is not None
            print(json.dumps(measure(self.folder, self.one, self)))
            return
        table: dict[str, Any] = {"side": self.side, "steps": self.steps, "device": self.device, "rows": []}
        place = roomy_folder(self.size)
        try:
            folder = self.folder
            if folder is None:
                started = time.perf_counter()
                folder = write_weights(self.size, place)
                table["seconds_to_write_weights"] = round(time.perf_counter() - started, 1)
            for mode in self.modes:
                table["rows"].append(self._row(folder, mode, place))
                self.output.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
                print(told(table["rows"][-1]), flush=True)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _row(self, folder: Path, mode: str, place: Path) -> dict[str, Any]:
        """What a process says of its mode, or why it says nothing."""
        words = [sys.executable, __file__, "--one", mode, "--folder", str(folder), "--device", self.device]
        words += ["--side", str(self.side), "--steps", str(self.steps), "--output", str(place / "picture.pt")]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=self.mode_s, check=False)
        except subprocess.TimeoutExpired:
            return {"mode": mode, "failed": f"took more than {self.mode_s:.0f} s"}
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {"mode": mode, "failed": lines[-1][:500] if lines else f"exit code {done.returncode}"}


def roomy_folder(size: str) -> Path:
    """A new folder, in main memory where the weights fit there twice, else on the disk."""
    import psutil

    needed = weights_bytes(size)
    has_room = (
        SHARED_MEMORY.is_dir()
        and shutil.disk_usage(SHARED_MEMORY).free > 1.1 * needed
        and psutil.virtual_memory().available > ROOM * needed
    )
    return Path(tempfile.mkdtemp(prefix="deepgen-memory-", dir=SHARED_MEMORY if has_room else None))


def weights_bytes(size: str) -> int:
    """Of all parts in 16 bits."""
    from deepgen.checkpoints.memory import meta_models, part_bytes

    parts = meta_models("deepgen-1.0" if size == "full" else "deepgen-tiny")
    return sum(part_bytes(name, part, "none") for name, part in parts.items())


def write_weights(size: str, place: Path) -> Path:
    """A folder of random numbers with the tokenizer at hand."""
    from harness.models import _with_small_tokenizer
    from harness.startup import random_folder

    from deepgen.models.config import DEEPGEN_1_0, DEEPGEN_TINY

    architecture = _with_small_tokenizer(DEEPGEN_1_0) if size == "full" else DEEPGEN_TINY
    return random_folder(architecture, place / "model")


def measure(folder: Path, mode: str, options: MemoryTable) -> dict[str, Any]:
    """Load with a mode and draw, in no more memory than it asks for."""
    import torch
    from harness.machine import now, peak_bytes

    from deepgen.checkpoints.memory import ImageRequest, meta_models, need
    from deepgen.cli.loading import choose_placement, load_pipeline
    from deepgen.cli.options import ModelOptions

    is_cuda = options.device == "cuda"
    if is_cuda and mode != "none":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, int(mode) * 1e9 / total))
    asked = ModelOptions(model=str(folder), memory=mode, device=options.device)  # pyright: ignore[reportArgumentType]
    plan = _plan(choose_placement(asked, options.device))
    image = ImageRequest(height=options.side, width=options.side)
    planned = need(meta_models(folder), plan, value_bytes=2 if is_cuda else 4, image=image)
    started = now(options.device)
    pipe = load_pipeline(asked)
    loaded = now(options.device)
    made = {"height": options.side, "width": options.side, "num_inference_steps": options.steps}
    pipe.set_progress_bar_config(disable=True)
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    image = pipe("a cat", seed=0, guidance_scale=4.0, output_type="pt", **made).images[0]
    drawn = now(options.device)
    return {
        "mode": mode,
        "plan": str(plan),
        "planned_bytes": planned.device,
        "waiting_bytes": planned.host,
        "peak_bytes": peak_bytes(options.device),
        "reserved_bytes": torch.cuda.max_memory_reserved() if is_cuda else None,
        "seconds_load": round(loaded - started, 2),
        "seconds_picture": round(drawn - loaded, 2),
        "difference": difference(image.float().cpu(), options.output),
    }


def _plan(placement: Any) -> Any:
    """The plan of what the command line placed."""
    from deepgen.checkpoints.memory import MemoryPlan

    return MemoryPlan(quantize=placement.quantize, offload=placement.offload, has_tiles=placement.has_tiles)


def difference(image: Any, first: Path) -> float | None:
    """Root mean square difference from the first mode's picture, in [0, 1]; None of that one itself, which
    is kept.
    """
    import torch

    if not first.exists():
        torch.save(image, first)
        return None
    return float((image - torch.load(first, weights_only=True)).pow(2).mean().sqrt())


def told(row: dict[str, Any]) -> str:
    """A row in a line."""
    if "failed" in row:
        return f"--memory {row['mode']}: {row['failed']}"
    planned, used = (row[name] / 1e9 for name in ("planned_bytes", "peak_bytes"))
    seconds = f"loaded in {row['seconds_load']} s, drawn in {row['seconds_picture']} s"
    return f"--memory {row['mode']}: {row['plan']}; planned {planned:.1f} GB, used {used:.1f} GB; {seconds}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the weights are removed from main memory
    tyro.cli(MemoryTable).run()
