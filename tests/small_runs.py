"""Settings that make a supervised recipe run on a small model in a second."""

from __future__ import annotations

from pathlib import Path

MIXTURE = """
seed: 3
image: {rule: fix_pixels, image_size: 96, unit: 32}
tasks:
  edit:
    ratio: 1
    sources:
      edits: {source: shapes, rows: 64, task: edit}
  generate:
    ratio: 2
    sources:
      captions: {source: shapes, rows: 64}
"""


def small(mixture: Path, **changes: str) -> dict[str, str]:
    settings = {
        "data": str(mixture),
        "global_batch_size": "6",
        "micro_batch_size": "4",
        "num_workers": "0",
        "num_steps": "2",
        "optim.decay_share": "0",
        "optim.warmup_steps": "1",
        "device": "cpu",
        "model": "shapes",
        "new_connector": "false",
        "preflight": "none",
        "before_after": "none",
    }
    return {**settings, **changes}
