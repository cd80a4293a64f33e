"""What the server saves by reading a picture once, and by drawing with several LoRAs in one forward.

    python benchmarks/serving_reuse.py [--repeats 3] [--output FILE]

Both ways run in turn in this process with the model inside the package, on one thread, so what else the
machine does falls on both. Reported are the processor's seconds of each way, the median of all repeats, and
their ratio:

- edits: one picture with eight instructions, one after the other, with the cache of encodings and without;
  of the whole requests, and of what comes before their first step (`begin`).
- loras: eight pictures at once, two with each of four LoRAs (rank 8, attention), in shared forwards and with
  each LoRA in forwards of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file

from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.engine import Engine, EngineConfig
from deepgen.serving.jobs import GenerationRequest

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")
LORAS = ("a", "b", "c", "d")


def edits(pipe: DeepGenPipeline, picture: Image.Image, max_bytes: int) -> dict[str, float]:
    """Seconds of eight edits of one picture."""
    with Engine(pipe, EngineConfig(max_batch=1, max_encoding_bytes=max_bytes)) as engine:
        begun = [0.0]
        engine.sampler.encode = timed(engine.sampler.encode, begun)  # type: ignore[method-assign]
        engine.sampler.begin = timed(engine.sampler.begin, begun)  # type: ignore[method-assign]
        started = time.process_time()
        for seed, colour in enumerate(COLOURS):
            asked = {"prompt": f"make it {colour}", "images": (picture,), "seed": seed, "preset": "fast"}
            engine.submit(GenerationRequest(**asked)).result()
        return {"request": time.process_time() - started, "begin": begun[0]}


def loras(pipe: DeepGenPipeline, paths: dict[str, str], is_shared: bool) -> dict[str, float]:
    """Seconds of eight pictures with four LoRAs."""
    with Engine(pipe, EngineConfig(max_batch=8, loras=paths)) as engine:
        if not is_shared:
            engine.sampler.loras.forward_group = lambda name: name  # type: ignore[method-assign]
        for name in LORAS:  # loaded before it counts
            engine.submit(GenerationRequest(prompt="a red circle", lora=name, num_inference_steps=1)).result()
        sizes: list[int] = []
        step = engine.sampler.step
        engine.sampler.step = lambda batch, *rest: (sizes.append(len(batch)), step(batch, *rest))[1]  # type: ignore[method-assign]
        started = time.process_time()
        jobs = [
            engine.submit(GenerationRequest(prompt=f"a {colour} circle", seed=k, lora=LORAS[k % 4]))
            for k, colour in enumerate(COLOURS)
        ]
        for job in jobs:
            job.result()
        return {"all": time.process_time() - started, "rows": statistics.mean(sizes)}


def timed(call: Callable[..., Any], total: list[float]) -> Callable[..., Any]:
    """The call, which adds the processor's seconds it takes."""

    def timing(*arguments: Any, **named: Any) -> Any:
        started = time.process_time()
        try:
            return call(*arguments, **named)
        finally:
            total[0] += time.process_time() - started

    return timing


def write_loras(folder: Path) -> dict[str, str]:
    """Adapters of random weights."""
    pipe = DeepGenPipeline.from_pretrained("shapes")
    for number, name in enumerate(LORAS):
        torch.manual_seed(number)
        modules = ["to_q", "to_k", "to_v", "to_out.0"]
        pipe.transformer.add_adapter(
            LoraConfig(r=8, lora_alpha=8, target_modules=modules, init_lora_weights=False), adapter_name=name
        )
        state = get_peft_model_state_dict(pipe.transformer, adapter_name=name)
        save_file(
            {f"transformer.{k}": v.contiguous() for k, v in state.items()}, folder / f"{name}.safetensors"
        )
    return {name: str(folder / f"{name}.safetensors") for name in LORAS}


def loaded() -> DeepGenPipeline:
    """The model inside the package, anew: an engine leaves its adapters in it."""
    pipe = DeepGenPipeline.from_pretrained("shapes")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, float]]] = {"kept": [], "computed": [], "shared": [], "apart": []}
    pipe = loaded()
    picture = pipe("a red circle", seed=1).images[0]
    with tempfile.TemporaryDirectory() as folder:
        paths = write_loras(Path(folder))
        for _ in range(given.repeats):
            runs["computed"].append(edits(pipe, picture, 0))
            runs["kept"].append(edits(pipe, picture, 2**28))
            runs["apart"].append(loras(loaded(), paths, is_shared=False))
            runs["shared"].append(loras(loaded(), paths, is_shared=True))
    medians = {
        way: {name: statistics.median(run[name] for run in of_way) for name in of_way[0]}
        for way, of_way in runs.items()
    }
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "repeats": given.repeats,
        "seconds": medians,
        "ratio": {
            "edits": medians["computed"]["request"] / medians["kept"]["request"],
            "edits_begin": medians["computed"]["begin"] / medians["kept"]["begin"],
            "loras": medians["apart"]["all"] / medians["shared"]["all"],
        },
    }
    print(json.dumps(result, indent=1))
    if given.output is not None:
        given.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
