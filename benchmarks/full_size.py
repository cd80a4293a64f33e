"""One 512x512 image from a real-size folder: seconds per stage and the peak memory of the process.

    python benchmarks/full_size.py FOLDER [--steps 2] [--guidance 1.0] [--output result.json]

FOLDER may hold random weights; only sizes matter here.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from deepgen.models.precision import compute_in_float32
from deepgen.pipeline import DeepGenPipeline


def main() -> None:
    """Load, draw, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    started = time.perf_counter()
    pipe = DeepGenPipeline.from_pretrained(arguments.folder, dtype=torch.bfloat16)
    for part in (pipe.vlm, pipe.connector, pipe.transformer):
        compute_in_float32(part)
    pipe.vae.float()
    loaded = time.perf_counter()
    print(f"loaded in {loaded - started:.0f} s, peak {peak_gb():.1f} GB", flush=True)
    marks = []
    image = pipe(
        "a red circle",
        height=arguments.size,
        width=arguments.size,
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        seed=0,
        callback_on_step_end=lambda *_: marks.append(time.perf_counter()) or {},
    ).images[0]
    done = time.perf_counter()
    result = {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "hardware": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "size": list(image.size),
        "steps": arguments.steps,
        "guidance_scale": arguments.guidance,
        "seconds_load": round(loaded - started, 1),
        "seconds_prompt_and_first_step": round(marks[0] - loaded, 1),
        "seconds_per_further_step": round((marks[-1] - marks[0]) / max(1, len(marks) - 1), 1),
        "seconds_decode": round(done - marks[-1], 1),
        "peak_memory_gb": round(peak_gb(), 1),
    }
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def peak_gb() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
