"""(b) FLOP/s of each part, as a share of the matrix product's on the same machine at the same time."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

import torch

from deepgen.models import cpu_attention
from deepgen.models import vae as latent_space
from deepgen.models.allocation import kept_memory
from deepgen.planning.flops import SampleShape, positions
from deepgen.sampling.step_cache import StepCache
from harness import inputs
from harness.machine import matmul_peak, seconds
from harness.models import Subject
from harness.reference import as_loaded
from harness.store import Store


def run(subject: Subject, store: Store, settings: dict[str, Any]) -> None:
    """One cell for each part, and the peaks."""
    side, rounds = settings["side"], settings["rounds"]
    plain = SampleShape(image_size=side, prompt_tokens=settings["prompt_tokens"])
    edits = {k: SampleShape(image_size=side, prompt_tokens=40, references=k) for k in (1, 3)}
    image = SampleShape(image_size=settings["vae_side"])
    store.cell("peak", lambda: _peaks(subject.device))
    for name, part, sample, rows in (
        ("VLM, text", "vlm", plain, 2),
        ("VLM, 1 reference", "vlm", edits[1], 2),
        ("vision tower, 1 reference", "vision", edits[1], 1),
        ("connector, text", "connector", plain, 2),
        ("DiT step, text to image", "dit", plain, 2),
        ("DiT step, 1 reference", "dit", edits[1], 2),
        ("DiT step, 3 references", "dit", edits[3], 1),
        ("VAE encoder", "encoder", image, 1),
        ("VAE encoder, contiguous weights", "encoder", image, 1),
        ("VAE decoder", "decoder", image, 1),
        ("VAE decoder, contiguous weights", "decoder", image, 1),
    ):
        few = (
            1 if subject.size != "tiny" and (part in ("encoder", "decoder") or sample.references) else rounds
        )
        is_contiguous = name.endswith("contiguous weights")
        store.cell(
            name,
            lambda part=part, sample=sample, rows=rows, few=few, is_contiguous=is_contiguous: measure(
                subject, part, sample, rows, few, is_contiguous
            ),
        )
    store.content["attention"] = ways_of_attention(subject, plain)
    store.save()


@torch.no_grad()
def ways_of_attention(subject: Subject, sample: SampleShape) -> dict[str, float]:
    """Seconds of the DiT's joint attention of two pictures by way, where a CPU has more than one."""
    p, config = positions(subject.counted, sample), subject.pipe.transformer.config
    shape = (2, p.image + p.context, config.num_attention_heads, config.attention_head_dim)
    query, key, value = (torch.randn(shape, dtype=subject.arithmetic, device=subject.device) for _ in "qkv")
    if not cpu_attention.has_choice(query):
        return {}
    spent = cpu_attention.compare(query, key, value)
    return {way.__name__: seconds for way, seconds in spent.items() if isfinite(seconds)}


def _peaks(device: str) -> dict[str, float]:
    return {
        str(dtype).removeprefix("torch."): matmul_peak(dtype, device, rounds)
        for dtype, rounds in ((torch.float32, 3), (torch.bfloat16, 1 if device == "cpu" else 3))
    }


@torch.no_grad()
def measure(
    subject: Subject, part: str, sample: SampleShape, rows: int, rounds: int, is_contiguous: bool = False
) -> dict[str, Any]:
    """FLOP, seconds, FLOP/s and the share of the peak, which is measured before and after.

    The VAE's weights lie as the package has them, or contiguous.
    """
    arithmetic = subject.pipe.vae.dtype if part in ("encoder", "decoder") else subject.arithmetic
    if is_contiguous:
        subject.pipe.vae.to(memory_format=torch.contiguous_format)
        with as_loaded():
            return measure(subject, part, sample, rows, rounds)
    call = caller(subject, part, sample, rows)
    if subject.size == "tiny" or subject.device == "cuda":
        call()
    peaks, spent = [matmul_peak(arithmetic, subject.device, 2)], []
    for _ in range(rounds):
        with kept_memory(subject.device == "cpu"):  # as the pipeline runs its parts
            spent.append(seconds(call, subject.device))
        peaks.append(matmul_peak(arithmetic, subject.device, 2))
    work = subject.flops(part, sample, rows)
    rate = work / min(spent)
    return {
        "flop": work,
        "seconds": min(spent),
        "flop_per_second": rate,
        "peak": max(peaks),
        "share": rate / max(peaks),
        "rows": rows,
        "arithmetic": str(arithmetic).removeprefix("torch."),
    }


def step_of_a_run(transformer: Any, arguments: dict[str, Any]) -> Callable[[], Any]:
    """A step after the first, as the pipeline makes it: what the steps share is there already."""
    step_cache = StepCache(arguments["timestep"][:1].repeat(2))
    transformer(**arguments, step_cache=step_cache)

    def step() -> Any:
        step_cache.step = 1
        return transformer(**arguments, step_cache=step_cache)

    return step


def caller(subject: Subject, part: str, sample: SampleShape, rows: int) -> Callable[[], Any]:
    """One call of a part on inputs of that size."""
    pipe, p, device = subject.pipe, positions(subject.counted, sample), subject.device
    side, factor = sample.image_size, subject.pipe.vae_scale_factor
    if part == "dit":
        arguments = inputs.transformer_inputs(subject, sample, rows)
        return step_of_a_run(pipe.transformer, arguments)
    if part == "connector":
        taps = len(pipe.connector.taps or (0,))
        states = torch.randn(rows, p.context, taps * pipe.connector.config.vlm_hidden_size, device=device)
        return lambda: pipe.connector(states.to(pipe.connector.dtype))
    if part == "decoder":
        latents = torch.randn(rows, pipe.transformer.config.in_channels, side // factor, side // factor)
        return lambda: latent_space.decode(pipe.vae, latents.to(device))
    image = inputs.pixels(side).to(device)
    if part == "encoder":
        return lambda: latent_space.encode(pipe.vae, image[None].expand(rows, -1, -1, -1))
    images = [inputs.pixels(side, k).to(device) for k in range(sample.references)]
    if part == "vision":
        return lambda: pipe.vlm.image_features(images)
    # The language model: references come as features, so that the tower's time is not in it.
    features = pipe.vlm.image_features(images) if images else None
    prompt = inputs.prompt_of(subject, sample.prompt_tokens)
    tokens = pipe._tokenize([prompt] * rows, [images] * rows if images else None).to(device)
    return lambda: pipe.vlm(
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        think_tokens=pipe.connector.think_tokens().to(device),
        taps=pipe.connector.taps,
        pixel_values=images,
        image_index=[list(range(len(images)))] * rows if images else None,
        image_features=features,
    )
