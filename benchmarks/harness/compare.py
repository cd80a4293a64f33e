"""(a) The original's path against ours: whole pictures, in turns, in one process.

Each path draws pictures of a few steps through the pipeline's own call while the time of each stage is
taken: condition, references, first step, further steps, decoding. A picture of `picture_steps` steps then
takes the sum, each stage scaled to the unshortened model by its FLOP count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from deepgen.planning.flops import SampleShape
from harness import inputs
from harness.machine import now, seconds
from harness.models import Subject
from harness.reference import decoded, reference_of
from harness.store import Store

EDIT_PROMPT_TOKENS = 40


def run(subject: Subject, store: Store, settings: dict[str, Any]) -> None:
    """Cells `t2i`, `edit` and `decode`, each with both paths and their ratio."""
    paths: dict[str, Any] = {"reference": reference_of(subject.pipe), "ours": subject.pipe}
    side, rounds, steps = settings["side"], settings["rounds"], settings["timed_steps"]
    samples = {
        "t2i": SampleShape(image_size=side, prompt_tokens=settings["prompt_tokens"]),
        "edit": SampleShape(image_size=side, prompt_tokens=EDIT_PROMPT_TOKENS, references=1),
    }
    for name, sample in samples.items():
        few = max(1, rounds // 2) if sample.references else rounds  # an edit takes three times as long
        store.cell(name, lambda sample=sample, few=few: _compare(subject, paths, sample, few, steps))
    store.cell("decode", lambda: _decode(subject, paths, side))
    store.cell("single", lambda: _single(subject, samples["t2i"], steps))
    store.content["pictures"] = {
        name: _image(subject, store.cells, name, sample, settings["picture_steps"])
        for name, sample in samples.items()
    }
    store.save()


def _compare(
    subject: Subject, paths: dict[str, Any], sample: SampleShape, rounds: int, steps: int
) -> dict[str, Any]:
    """Seconds of each stage by path, medians over the rounds, and how far the results are apart."""
    arguments = _arguments(subject, sample, steps)
    spent: dict[str, list[dict[str, float]]] = {name: [] for name in paths}
    latents = {}
    for number in range(rounds):
        order = list(paths.items())
        for name, pipe in order if number % 2 == 0 else reversed(order):
            stages, latents[name] = timed_image(pipe, subject.device, arguments)
            spent[name].append(stages)
    medians = {
        name: {stage: median(row[stage] for row in rows) for stage in rows[0]} for name, rows in spent.items()
    }
    apart = (latents["ours"] - latents["reference"]).float()
    return {
        "seconds": medians,
        "rounds": spent,
        "step_ratio": _ratio(
            [row["step"] for row in spent["reference"]], [row["step"] for row in spent["ours"]]
        ),
        "relative_difference": float(apart.norm() / latents["reference"].float().norm()),
    }


def _arguments(subject: Subject, sample: SampleShape, steps: int) -> dict[str, Any]:
    """Of one call of the pipeline."""
    arguments: dict[str, Any] = {
        "prompt": inputs.prompt_of(subject, sample.prompt_tokens),
        "num_inference_steps": steps,
        "guidance_scale": 4.0,
        "seed": 0,
        "output_type": "latent",
        "height": sample.image_size,
        "width": sample.image_size,
    }
    if sample.references:
        arguments["image"] = [[inputs.image(sample.image_size, k) for k in range(sample.references)]]
    return arguments


def _ratio(reference: list[float], ours: list[float]) -> float:
    """Median of the ratios of neighbouring runs, which a busy machine disturbs least."""
    return median(a / b for a, b in zip(reference, ours, strict=True))


@torch.no_grad()
def timed_image(pipe: Any, device: str, arguments: dict[str, Any]) -> tuple[dict[str, float], Any]:
    """Seconds of the stages of one call, and the latents it returns."""
    spent: dict[str, float] = defaultdict(float)
    marks: list[float] = []

    def mark(*_: Any) -> dict[str, Any]:
        marks.append(now(device))
        return {}

    with _timed(pipe, "encode_prompt", spent, device), _timed(pipe, "prepare_references", spent, device):
        denoise = pipe.denoise

        def begin(*values: Any, **options: Any) -> Any:
            marks.append(now(device))
            return denoise(*values, **options)

        pipe.denoise = begin
        try:
            result = pipe(**arguments, callback_on_step_end=mark).images
        finally:
            del pipe.denoise
    gaps = [after - before for before, after in pairwise(marks)]
    stages = {
        "condition": spent["encode_prompt"],
        "references": spent["prepare_references"],
        "first_step": gaps[0],
        "step": median(gaps[1:]) if len(gaps) > 1 else gaps[0],
    }
    return stages, result if isinstance(result, torch.Tensor) else torch.stack(list(result))


@contextmanager
def _timed(pipe: Any, method: str, spent: dict[str, float], device: str) -> Iterator[None]:
    """Add up the time of a method's calls."""
    original = getattr(pipe, method)

    def wrapper(*values: Any, **options: Any) -> Any:
        started = now(device)
        result = original(*values, **options)
        spent[method] += now(device) - started
        return result

    setattr(pipe, method, wrapper)
    try:
        yield
    finally:
        delattr(pipe, method)


def _decode(subject: Subject, paths: dict[str, Any], side: int) -> dict[str, float]:
    """Seconds of decoding one picture by path."""
    config, factor = subject.pipe.transformer.config, subject.pipe.vae_scale_factor
    latents = torch.randn(1, config.in_channels, side // factor, side // factor, device=subject.device)
    result = {}
    for name, pipe in paths.items():
        with torch.no_grad():
            result[name] = seconds(lambda pipe=pipe: decoded(pipe, latents), subject.device)
    return result


def _single(subject: Subject, sample: SampleShape, steps: int) -> dict[str, float]:
    """Our stages of a picture without the negative branch."""
    return timed_image(
        subject.pipe, subject.device, {**_arguments(subject, sample, steps), "guidance_scale": 1.0}
    )[0]


def _image(
    subject: Subject, cells: dict[str, Any], name: str, sample: SampleShape, steps: int
) -> dict[str, Any]:
    """Seconds of the stages of a whole picture by path, unshortened, and the ratio of their sums."""
    result: dict[str, Any] = {"steps": steps}
    for path, stages in cells[name]["seconds"].items():
        scaled = {
            "condition": stages["condition"] * subject.scale("encode", sample),
            "references": stages["references"],
            "first_step": stages["first_step"] * subject.scale("dit", sample),
            "step": stages["step"] * subject.scale("dit", sample),
            "decode": cells["decode"][path],
        }
        result[path] = {**scaled, "total": total(scaled, steps)}
    result["single_step"] = cells["single"]["step"] * subject.scale("dit", sample)
    return {**result, "ratio": result["reference"]["total"] / result["ours"]["total"]}


def total(stages: dict[str, float], calls: int, single: float = 0.0) -> float:
    """Seconds of a picture with so many calls of the DiT for both branches, and `single` for one branch."""
    once = stages["condition"] + stages["references"] + stages["decode"]
    return once + stages["first_step"] + (calls - 1) * stages["step"] + single
