"""Speed, memory and quality: one harness for every machine.

    python benchmarks/bench.py                          # `make bench`
    python benchmarks/bench.py --size tiny              # seconds instead of minutes
    python benchmarks/bench.py --size full --folder F   # a folder of the real size; on CUDA this is the one
    python benchmarks/bench.py --write-docs             # the tables and plots of docs/performance.md

Sections: compare (the original's path against ours), parts (share of the matrix product's speed), growth,
memory, startup, quality. Every cell is written when it is measured; a run that was stopped goes on.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

sys.path.insert(0, str(Path(__file__).parent))

from harness import compare, growth, machine, memory, page, parts, quality, report, startup
from harness.models import Size, Subject, subject
from harness.store import Store

Section = Literal["compare", "parts", "growth", "memory", "startup", "quality"]
SECTIONS: tuple[Section, ...] = ("compare", "parts", "growth", "memory", "startup", "quality")
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure what `sections` name, and write benchmarks/results/summary.json."""

    size: Size = "block"
    """tiny: the model in the package; block: DeepGen 1.0's widths with repeated layers; full: a folder."""
    folder: Path | None = None
    """For --size full."""
    shorten: int = 8
    """For --size block: so many times fewer layers; times are scaled back by the FLOP count."""
    sections: tuple[Section, ...] = SECTIONS
    device: Literal["auto", "cpu", "cuda"] = "auto"
    arithmetic: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: the one in which this machine multiplies faster. Both paths use the same."""
    threads: int | None = None
    """PyTorch threads; default PyTorch's own choice."""
    rounds: int = 2
    """Turns of what is compared."""
    side: int = 512
    """Pixels of the pictures."""
    largest_side: int = 1536
    """Where the resolution stops growing."""
    per_kind: int = 4
    """Shapes prompts of each kind, for quality."""
    output: Path | None = None
    """Where results go; default benchmarks/results/NAME, NAME from size and device."""
    fresh: bool = False
    """Forget what was measured before."""
    write_docs: bool = False
    """Measure nothing; write the tables and plots of docs/performance.md from the results."""


def main(options: Bench) -> None:
    """Run the sections, then write the summary."""
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = options.output or RESULTS / f"{options.size}-{device}"
    if options.write_docs:
        page.write_page(folder, Path(__file__).parents[1] / "docs")
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    settings = _settings(options, device)
    model: list[Subject] = []

    def loaded() -> Subject:
        if not model:
            arithmetic = (
                machine.choose_arithmetic(device)
                if options.arithmetic == "auto"
                else getattr(torch, options.arithmetic)
            )
            model.append(subject(options.size, options.shorten, device, arithmetic, options.folder))
        return model[0]

    for section in options.sections:
        store = Store(folder, section, settings, options.fresh)
        if section == "quality":
            quality.run(store, settings)
        else:
            module: Any = {
                "compare": compare,
                "parts": parts,
                "growth": growth,
                "memory": memory,
                "startup": startup,
            }[section]
            module.run(loaded(), store, settings)
    summary = report.summarize(folder, machine.facts(device))
    targets = [folder / "summary.json"]
    if options.output is None and options.size != "tiny":
        targets.append(RESULTS / "summary.json")
    for path in targets:
        path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(report.table(summary))


def _settings(options: Bench, device: str) -> dict[str, Any]:
    """What the cells depend on."""
    is_tiny = options.size == "tiny"
    return {
        "size": options.size,
        "shorten": options.shorten if options.size == "block" else 1,
        "device": device,
        "arithmetic": options.arithmetic,
        "threads": options.threads or torch.get_num_threads(),
        "side": 96 if is_tiny else options.side,
        "rounds": 5 if is_tiny else options.rounds,
        "timed_steps": 4 if is_tiny else 2,
        "picture_steps": 8 if is_tiny else 50,
        "prompt_tokens": 40 if is_tiny else 80,
        "growth_side": 64 if is_tiny else 512,
        "batch_side": 64 if is_tiny else 256,
        "largest_side": options.largest_side,
        "vae_side": 96 if is_tiny else 256 if device == "cpu" else options.side,
        "memory_side": 96 if is_tiny else 256 if device == "cpu" else options.side,
        "load_shorten": 12,
        "per_kind": options.per_kind,
    }


if __name__ == "__main__":
    main(tyro.cli(Bench))
