"""What exact drawing gains in three parts: the VAE's layout, the vision tower, and the start of commands.

    python benchmarks/exact_parts.py --output FILE
    python benchmarks/exact_parts.py --parts start --before COMMIT

All in one run, each thing before and after in turns; a ratio is the median of those of neighbouring runs, and
above 1 where the later is faster. VAE and vision tower have DeepGen 1.0's width and random weights, the tower
fewer layers; one thread, in seconds of the processor, because other work on a machine changes wall time. On a
GPU (`--device cuda`) it is wall time. Commands are whole processes: those of the commit `--before`, those of
what is checked out, and the latter with `deepgen resident` running.
"""

from __future__ import annotations

import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import tyro
from harness.inputs import pixels
from harness.machine import facts, matmul_peak, now
from harness.models import _fill, _repeat, shortened
from torch import Tensor, nn
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as library

from deepgen.checkpoints.parts import build, named_config
from deepgen.models import vae as latent_space
from deepgen.models.allocation import kept_memory
from deepgen.models.config import DEEPGEN_1_0, DEEPGEN_SHAPES, DEEPGEN_TINY
from deepgen.models.fused import has_kernel
from deepgen.models.vision_tower import GatedFeedForward, PatchProduct
from deepgen.models.windows import WindowAttention

ROOT = Path(__file__).resolve().parent.parent
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COMMANDS = {
    "draw with tiny": ["generate", "a cat", "--seed", "1", "-o", "x.png"],
    "plan a drawing": ["generate", "a cat", "--plan"],
    "info of tiny": ["info", "tiny"],
    "info of a picture": ["info", "drawn.png"],
    "verify tiny": ["verify", "tiny"],
    "train plan alignment": ["train", "plan", "alignment"],
    "data stats": ["data", "stats", "pictures"],
    "eval --help": ["eval", "--help"],
    "--version": ["--version"],
}
OF_LIBRARY = {
    PatchProduct: library.Qwen2_5_VisionPatchEmbed,
    GatedFeedForward: library.Qwen2_5_VLMLP,
    WindowAttention: library.Qwen2_5_VLVisionAttention,
}
Part = Literal["vae", "vision", "start"]


@dataclass(frozen=True, kw_only=True)
class ExactParts:
    """Measure parts before and after."""

    parts: tuple[Part, ...] = ("vae", "vision", "start")
    """Which."""
    device: str = "cpu"
    """Where VAE and vision tower run."""
    before: str = "0f88cfe"
    """Commit whose commands are compared with; taken out of git."""
    rounds: int = 3
    """Measurements of each; one more before them is not counted."""
    sides: tuple[int, ...] = (256, 512)
    """Of the pictures that the full VAE takes, pixels."""
    layers: int = 8
    """Of the vision tower, in the proportions of the full one, which has 32."""
    output: Path | None = None
    """Where the figures go, as JSON, after each; printed in any case."""

    def run(self) -> None:
        """Measure, print and write down."""
        if self.device == "cpu":
            torch.set_num_threads(1)
        result: dict[str, Any] = {
            "date": date.today().isoformat(),
            "machine": facts(self.device) | {"processor": _instructions()},
            "before": self.before,
            "rounds": self.rounds,
        }
        measures = {"vae": self._vae, "vision": self._vision, "start": self._start}
        for part in self.parts:
            for name, figures in measures[part]():
                result.setdefault(part, {})[name] = figures | {"load_average": os.getloadavg()[0]}
                print(f"{part}, {name}: {json.dumps(figures)}", flush=True)
                if self.output is not None:
                    self.output.write_text(json.dumps(result, indent=1) + "\n")

    def _vae(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Contiguous weights against channels last, whatever the package would choose."""
        full = _random(build("vae", named_config("vae", DEEPGEN_1_0), torch.bfloat16))
        cases: list[tuple[str, nn.Module, int]] = [("SD3.5", full, side) for side in self.sides]
        for architecture in (DEEPGEN_SHAPES, DEEPGEN_TINY):
            small = _random(build("vae", named_config("vae", architecture), torch.bfloat16))
            cases.append((architecture.name, small, 96))
        for name, vae, side in cases:
            for kind, dtype in DTYPES.items():
                contiguous: Any = copy.deepcopy(vae).to(self.device, dtype)
                last: Any = copy.deepcopy(contiguous).to(memory_format=torch.channels_last)
                factor = latent_space.scale_factor(contiguous)
                generator = torch.Generator().manual_seed(0)
                shape = (1, contiguous.config.latent_channels, side // factor, side // factor)
                latents = torch.randn(shape, generator=generator).to(self.device, dtype)
                image = pixels(side)[None].to(self.device, dtype)
                for part, given in (("decode", latents), ("encode", image)):
                    runs = {
                        "contiguous": lambda one=contiguous, part=part, given=given: _first(one, part, given),
                        "channels_last": lambda one=last, part=part, given=given: _first(one, part, given),
                    }
                    chosen = latent_space.is_faster_channels_last(dtype, torch.device(self.device))
                    yield (
                        f"{name} {part} {side}, {kind}",
                        self._compared(runs, "contiguous", "channels_last") | {"chosen": chosen},
                    )

    def _vision(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The library's own tower against ours."""
        depth = DEEPGEN_1_0.vlm["vision_config"]["depth"]
        vlm: Any = build(
            "vlm", named_config("vlm", shortened(DEEPGEN_1_0, depth // self.layers)), torch.bfloat16
        )
        tower = vlm.visual
        _repeat(tower.blocks)
        _random(tower)
        for kind, dtype in DTYPES.items():
            ours: Any = copy.deepcopy(tower).to(self.device, dtype)
            theirs: Any = copy.deepcopy(ours)
            for layer in theirs.modules():
                layer.__class__ = OF_LIBRARY.get(type(layer), type(layer))
            for side in (448, 512):
                count = side // 32 * 28 // 14
                grid = torch.tensor([[1, count, count]], device=self.device)
                generator = torch.Generator().manual_seed(0)
                patches = torch.randn(count**2, 3 * 2 * 14**2, generator=generator).to(self.device, dtype)
                runs = {
                    "library": lambda x=patches, grid=grid, one=theirs: one(x, grid_thw=grid).pooler_output,
                    "ours": lambda x=patches, grid=grid, one=ours: one(x, grid_thw=grid).pooler_output,
                }
                figures = self._compared(runs, "library", "ours")
                yield f"{len(ours.blocks)} layers, one reference of {side}, {kind}", figures
            embed = {
                "library": lambda x=patches, one=theirs: one.patch_embed(x),
                "ours": lambda x=patches, one=ours: one.patch_embed(x),
            }
            yield f"embedding of patches, {kind}", self._compared(embed, "library", "ours")
            states = torch.randn(len(patches), 1280).to(self.device, dtype)
            gated = {
                "library": lambda x=states, one=theirs: one.blocks[0].mlp(x),
                "ours": lambda x=states, one=ours: one.blocks[0].mlp(x),
            }
            figures = self._compared(gated, "library", "ours")
            yield f"feed-forward of a layer, {kind}", figures | {"fused": has_kernel(dtype)}

    @torch.no_grad()
    def _compared(self, runs: Mapping[str, Callable[[], Tensor]], first: str, second: str) -> dict[str, Any]:
        """Seconds of both in turns, their ratio, and how far the results are apart."""
        spent: dict[str, list[float]] = {name: [] for name in runs}
        results = {}
        with kept_memory(self.device == "cpu"):
            for number in range(self.rounds + 1):
                for name, run in runs.items():
                    started = self._clock()
                    results[name] = run()
                    if number:
                        spent[name].append(self._clock() - started)
        apart = (results[second] - results[first]).float().norm() / results[first].float().norm()
        ratios = [a / b for a, b in zip(spent[first], spent[second], strict=True)]
        return {
            **{name: _rounded(median(values)) for name, values in spent.items()},
            "ratio": _rounded(median(ratios)),
            "ratios": [_rounded(one) for one in ratios],
            "relative_difference": _rounded(float(apart)),
        }

    def _clock(self) -> float:
        return time.process_time() if self.device == "cpu" else now(self.device)

    def _start(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Whole processes: processor and wall seconds, with what the resident process computes for them left
        out of the former.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            old = folder / "old"
            old.mkdir()
            archive = subprocess.run(
                ["git", "archive", self.before, "src"], cwd=ROOT, check=True, capture_output=True
            )
            subprocess.run(["tar", "-x", "-C", str(old)], input=archive.stdout, check=True)
            _make_pictures(folder)
            base = {**os.environ, "XDG_RUNTIME_DIR": name}
            ways = {
                "before": base | {"PYTHONPATH": str(old / "src"), "DEEPGEN_RESIDENT": "off"},
                "after": base | {"PYTHONPATH": str(ROOT / "src"), "DEEPGEN_RESIDENT": "off"},
                "resident": base | {"PYTHONPATH": str(ROOT / "src")},
            }
            with _resident(ways["resident"], folder) as ready:
                yield "deepgen resident, until it is ready", {"wall_s": _rounded(ready)}
                for title, words in COMMANDS.items():
                    rows = [
                        {way: _process(words, environment, folder) for way, environment in ways.items()}
                        for _ in range(self.rounds + 1)
                    ][1:]
                    figures: dict[str, Any] = {
                        way: {
                            "wall_s": _rounded(min(row[way][0] for row in rows)),
                            "cpu_s": _rounded(min(row[way][1] for row in rows)),
                        }
                        for way in ways
                    }
                    for way in ("after", "resident"):
                        ratios = [row["before"][0] / row[way][0] for row in rows]
                        figures[f"{way}_ratio"] = _rounded(median(ratios))
                    yield title, figures


def _first(vae: Any, part: str, given: Tensor) -> Tensor:
    """Of the VAE itself, past what the package does about its layout."""
    return vae.decode(given).sample if part == "decode" else vae.encode(given).latent_dist.mean


def _random(module: Any) -> Any:
    torch.manual_seed(0)
    _fill(module)
    return module.eval()


def _make_pictures(folder: Path) -> None:
    """What `info` and `data stats` read."""
    from PIL import Image

    (folder / "pictures").mkdir()
    for number in range(20):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / "pictures" / f"{number}.png")
        (folder / "pictures" / f"{number}.txt").write_text(f"picture {number}")
    command = [sys.executable, "-m", "deepgen", "generate", "a cat", "--steps", "1", "-o", "drawn.png"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


@contextmanager
def _resident(environment: dict[str, str], folder: Path) -> Iterator[float]:
    """A resident process, and the seconds until it was ready."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "deepgen", "resident"]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        if "is ready" not in line:
            raise RuntimeError(f"no resident process: {line}{process.stderr.read()}")
        try:
            yield time.perf_counter() - started
        finally:
            process.terminate()


def _process(words: list[str], environment: dict[str, str], folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of one command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    command = [sys.executable, "-m", "deepgen", *words]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _instructions() -> str:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    return ", ".join(name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in text)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    measured = tyro.cli(ExactParts, description=__doc__)
    print(f"matrix product: {matmul_peak(torch.bfloat16, measured.device) / 1e9:.0f} GFLOP/s in bfloat16")
    measured.run()
