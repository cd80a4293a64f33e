"""(d) Memory that a call takes on top of the weights, by mode.

On a CPU the peak of the resident size is set back before each mode; on an accelerator its own counter is.
Weights of the real model are added from its sizes: in bfloat16 they take what `weights_bytes` says.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from deepgen.planning.flops import SampleShape
from harness import inputs
from harness.machine import peak_bytes, resident_bytes
from harness.models import Subject
from harness.parts import caller
from harness.reference import reference_of
from harness.store import Store


def run(subject: Subject, store: Store, settings: dict[str, Any]) -> None:
    """One cell for each mode."""
    side = decoded = settings["memory_side"]
    reference = reference_of(subject.pipe)
    tokens = settings["prompt_tokens"]
    modes: dict[str, Callable[[], Any]] = {
        f"text to image {side}, ours": lambda: _draw(subject, subject.pipe, side, tokens, 0),
        f"text to image {side}, reference": lambda: _draw(subject, reference, side, tokens, 0),
        f"1 reference {side}, ours": lambda: _draw(subject, subject.pipe, side, tokens, 1),
        f"1 reference {side}, reference": lambda: _draw(subject, reference, side, tokens, 1),
        f"decode {decoded}": caller(subject, "decoder", SampleShape(image_size=decoded), 1),
        f"decode {decoded}, tiles": lambda: _tiled(subject, decoded),
    }
    for name, call in modes.items():
        store.cell(name, lambda call=call: {"bytes": working_bytes(call, subject.device)})
    store.content["weights_bytes"] = sum(
        parameter.numel() * 2 for part in subject.whole.values() for parameter in part.parameters()
    )
    store.save()


@torch.no_grad()
def working_bytes(call: Callable[[], Any], device: str) -> int:
    """Peak of one call above what the process held before it."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return peak_bytes(device) - before
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    before = resident_bytes()
    call()
    return peak_resident_bytes() - before


def peak_resident_bytes() -> int:
    """Since it was last set back."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def _draw(subject: Subject, pipe: Any, side: int, tokens: int, references: int) -> None:
    images = [[inputs.image(side, k) for k in range(references)]] if references else None
    pipe(
        inputs.prompt_of(subject, tokens),
        image=images,
        height=side,
        width=side,
        num_inference_steps=1,
        guidance_scale=4.0,
        seed=0,
        output_type="latent",
    )


def _tiled(subject: Subject, side: int) -> None:
    vae = subject.pipe.vae
    vae.enable_tiling()
    least = vae.tile_latent_min_size, vae.tile_sample_min_size
    vae.tile_latent_min_size = side // subject.pipe.vae_scale_factor // 2
    vae.tile_sample_min_size = side // 2
    try:
        caller(subject, "decoder", SampleShape(image_size=side), 1)()
    finally:
        vae.disable_tiling()
        vae.tile_latent_min_size, vae.tile_sample_min_size = least
