"""Where the time of a picture goes: imports, loading, and each part of the model.

    python benchmarks/speed.py [--model tiny] [--repeats 3] [generate's model options]

Parts are timed by hooks around their forward, synchronised with the device; the rest of a picture is the
solver, the noise and the way back to a Pillow picture. The first picture warms up and is not counted.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import Any

import tyro

from deepgen.cli.loading import load_pipeline
from deepgen.cli.options import ModelOptions


@dataclass(frozen=True, kw_only=True)
class Speed(ModelOptions):
    """Time the parts of a picture."""

    prompt: str = "a cat in a meadow"
    instruction: str = "replace the cat with a dog"
    repeats: int = 3


def main(options: Speed) -> None:
    """Print medians over the repeats."""
    started = time.perf_counter()
    pipe: Any = load_pipeline(options)
    print(f"imports and loading     {time.perf_counter() - started:8.2f} s")
    pipe.set_progress_bar_config(disable=True)
    image = pipe(options.prompt, seed=0).images[0]
    for name, arguments in (
        ("generate", {"prompt": options.prompt}),
        ("edit", {"prompt": options.instruction, "image": image}),
    ):
        pipe(**arguments, seed=0)
        runs = [timed_run(pipe, **arguments, seed=seed) for seed in range(options.repeats)]
        print(f"\n{name}, {image.width}x{image.height}, median of {options.repeats}")
        for part in runs[0]:
            print(f"  {part:20}{1000 * median(run[part] for run in runs):10.1f} ms")


def timed_run(pipe: Any, **arguments: Any) -> dict[str, float]:
    """Seconds of each part in one call, and of the whole."""
    spent: dict[str, float] = defaultdict(float)
    entered: dict[str, float] = {}
    hooks = []
    # The VAE is called through encode and decode, so its two halves are hooked instead.
    modules = {"vlm": pipe.vlm, "connector": pipe.connector, "transformer": pipe.transformer}
    modules |= {"vae encoder": pipe.vae.encoder, "vae decoder": pipe.vae.decoder}
    for name, module in modules.items():

        def enter(*_: Any, name: str = name) -> None:
            entered[name] = now(pipe)

        def leave(*_: Any, name: str = name) -> None:
            spent[name] += now(pipe) - entered[name]

        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    started = now(pipe)
    pipe(**arguments)
    whole = now(pipe) - started
    for hook in hooks:
        hook.remove()
    return {**spent, "whole picture": whole}


def now(pipe: Any) -> float:
    """The clock, once the device has finished what it was given."""
    import torch

    if pipe.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main(tyro.cli(Speed))
