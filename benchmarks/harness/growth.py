"""(c) Time as work grows: resolution, batch, references, length of the prompt, beside the FLOP count.

Every row is one pass of the DiT (for prompts also of the VLM and the connector) without guidance. `excess`
is time over FLOP, relative to the cheapest row per FLOP: 1.15 means 15 % more than the count says.
`explained` is the same where the DiT's attention counts as long as it takes alone, and the rest by its FLOP.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from deepgen.models import cpu_attention
from deepgen.models.allocation import kept_memory
from deepgen.planning.flops import SampleShape, positions
from harness.machine import matmul_peak, seconds
from harness.models import Subject
from harness.parts import caller
from harness.store import Store

AXES: dict[str, tuple[int, ...]] = {
    "resolution": (256, 384, 512, 768, 1024, 1536),
    "batch": (1, 2, 4, 8, 16, 32),
    "references": (0, 1, 2, 3, 4),
    "prompt": (16, 64, 256, 1024),
}
TINY_AXES = {"resolution": (32, 64, 96), "batch": (1, 4, 32), "references": (0, 1, 4), "prompt": (16, 256)}


def run(subject: Subject, store: Store, settings: dict[str, Any]) -> None:
    """A cell for every point of every axis."""
    small, base = settings["batch_side"], settings["growth_side"]
    for axis, values in (TINY_AXES if subject.size == "tiny" else AXES).items():
        for value in values:
            if axis == "resolution" and value > settings["largest_side"]:
                continue
            sample = {
                "resolution": SampleShape(image_size=value, prompt_tokens=80),
                "batch": SampleShape(image_size=small, prompt_tokens=80),
                "references": SampleShape(image_size=base, prompt_tokens=40, references=value),
                "prompt": SampleShape(image_size=base, prompt_tokens=value),
            }[axis]
            parts = ("vlm", "connector", "dit") if axis == "prompt" else ("dit",)
            rows = value if axis == "batch" else 1
            store.cell(
                f"{axis} {value}",
                lambda sample=sample, rows=rows, parts=parts: _point(subject, parts, sample, rows),
            )
    for axis in AXES:
        _compare_with_count({name: c for name, c in store.cells.items() if name.startswith(axis)})
    store.save()


@torch.no_grad()
def _point(subject: Subject, parts: tuple[str, ...], sample: SampleShape, rows: int) -> dict[str, float]:
    """Seconds and FLOP of one pass of the parts, and the machine's peak at the time."""
    peak = matmul_peak(subject.arithmetic, subject.device, 1)
    spent = work = attention_work = attention_seconds = 0.0
    for part in parts:
        call = caller(subject, part, sample, rows)
        with kept_memory(subject.device == "cpu"):  # as the pipeline runs its parts
            if subject.flops(part, sample, rows) < peak:  # what takes under a second is repeated
                call()
                spent += min(seconds(call, subject.device) for _ in range(3))
            else:
                spent += seconds(call, subject.device)
        work += subject.flops(part, sample, rows)
        if part == "dit":
            attention_work, attention_seconds = _attention(subject, sample, rows)
    return {
        "seconds": spent,
        "flop": work,
        "peak": peak,
        "attention_flop": attention_work,
        "attention_seconds": attention_seconds,
    }


def _attention(subject: Subject, sample: SampleShape, rows: int) -> tuple[float, float]:
    """FLOP and seconds of all the DiT's attention calls of one pass, made alone."""
    p, config = positions(subject.counted, sample), subject.pipe.transformer.config
    heads, width = config.num_attention_heads, config.attention_head_dim
    joint, last_dual = p.image + p.context, config.num_layers - 1 in config.dual_attention_layers
    calls = Counter(  # (queries, keys); the last block asks for the target only
        [(joint, joint)] * (config.num_layers - 1)
        + [(p.image_of_one, joint)]
        + [(p.image, p.image)] * (len(config.dual_attention_layers) - last_dual)
        + [(p.image_of_one, p.image)] * last_dual
    )
    work = spent = 0.0
    for (queries, keys), times in calls.items():
        query, key, value = (
            torch.randn(rows, n, heads, width, dtype=subject.arithmetic, device=subject.device)
            for n in (queries, keys, keys)
        )

        def attend(query: Tensor = query, key: Tensor = key, value: Tensor = value) -> Tensor:
            way = cpu_attention.attend if cpu_attention.has_choice(query) else cpu_attention.pytorch
            return way(query, key, value)

        attend()
        spent += times * min(seconds(attend, subject.device) for _ in range(2))
        work += times * 4.0 * rows * queries * keys * heads * width
    return work, spent


def _compare_with_count(cells: dict[str, dict[str, float]]) -> None:
    """`excess` by all FLOP, `explained` by the FLOP that are not attention's and the time they take."""
    plain = {name: cell["seconds"] / cell["flop"] for name, cell in cells.items()}
    others = {
        name: max(0.0, cell["seconds"] - cell["attention_seconds"]) / (cell["flop"] - cell["attention_flop"])
        for name, cell in cells.items()
    }
    for name, cell in cells.items():
        cell["excess"] = plain[name] / min(plain.values())
        expected = min(others.values()) * (cell["flop"] - cell["attention_flop"]) + cell["attention_seconds"]
        cell["explained"] = cell["seconds"] / expected
