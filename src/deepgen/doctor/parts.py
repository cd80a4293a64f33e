"""The parts of the embedded model on small inputs, as the doctor runs them on every device.

An input holds values that bfloat16 and float16 have exactly, so that what differs from the recorded outputs
is arithmetic: rounding of weights, products and sums. A part is run on recorded inputs, not on what another
part made, so that a fault is found in the part it lies in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepgen.models import vae as latent_space
from deepgen.sampling.ode import SamplingState
from deepgen.sampling.presets import get_preset

# B rows, L tokens with think tokens, C latent channels, h w latent size
Inputs = Mapping[str, Tensor]
Run = Callable[[Any, Inputs], list[Tensor]]


@dataclass(frozen=True)
class PartCheck:
    """A part of the model on recorded inputs.

    Attributes:
        name: in the report.
        inputs: names of the recorded tensors it is given, on the device and in the number format.
        run: outputs of a pipeline on them.
        convolves: whether it has a convolution, which a card may compute in TF32.
    """

    name: str
    inputs: tuple[str, ...]
    run: Run
    convolves: bool = False


def vision(pipe: Any, inputs: Inputs) -> list[Tensor]:
    """Features of one reference, (N, D)."""
    return pipe.vlm.image_features([inputs["pixels"]])


def read_text(pipe: Any, inputs: Inputs) -> list[Tensor]:
    """Taps of one prompt that nothing is padded in, (1, L, T * D): the kernels without a mask."""
    ids = inputs["prompt_ids"][1:]
    return [_read(pipe, ids, torch.ones_like(ids))]


def read_image(pipe: Any, inputs: Inputs) -> list[Tensor]:
    """Taps of a padded text and of an edit whose image features are given, (2, L, T * D): with a mask."""
    features, pixels = inputs["features"], inputs["pixels"]
    given = {"pixel_values": [pixels], "image_index": [[], [0]], "image_features": [features]}
    return [_read(pipe, inputs["edit_ids"], inputs["edit_mask"], **given)]


def _read(pipe: Any, ids: Tensor, mask: Tensor, **images: Any) -> Tensor:
    think = pipe.connector.think_tokens().to(ids.device)
    return pipe.vlm(
        input_ids=ids, attention_mask=mask, think_tokens=think, taps=pipe.connector.taps, **images
    )


def bridge(pipe: Any, inputs: Inputs) -> list[Tensor]:
    """Context and pooled condition of stacked taps."""
    return list(pipe.connector(inputs["states"]))


def draw_text(pipe: Any, inputs: Inputs) -> list[Tensor]:
    """Velocities of two samples without references, (2, C, h, w)."""
    return [_velocity(pipe, inputs, None)]


def draw_edit(pipe: Any, inputs: Inputs) -> list[Tensor]:
    """Velocities of two samples of which one has a reference: the other is padded and masked."""
    return [_velocity(pipe, inputs, [[], [inputs["reference"]]])]


def _velocity(pipe: Any, inputs: Inputs, references: Any) -> Tensor:
    return pipe.transformer(
        hidden_states=inputs["noisy"],
        encoder_hidden_states=inputs["context"],
        pooled_projections=inputs["pooled"],
        timestep=inputs["timesteps"],
        reference_latents=references,
        return_dict=False,
    )[0]


def encode(pipe: Any, inputs: Inputs) -> list[Tensor]:
    """Mean and standard deviation of the posterior of one picture, (1, C, h, w) each."""
    posterior = latent_space.encode(pipe.vae, inputs["pixels"][None])
    return [posterior.mean, posterior.std]


def decode(pipe: Any, inputs: Inputs) -> list[Tensor]:
    """Pixels of one picture, (1, 3, 8 h, 8 w)."""
    return [latent_space.decode(pipe.vae, inputs["latents"])]


def walk(pipe: Any, inputs: Inputs) -> list[Tensor]:
    """Noise levels of two presets, and where a field that pulls half-way to `latents` ends from `start`."""
    found = []
    for name in ("exact", "balanced"):
        preset = get_preset(name)
        start = inputs["start"]  # (1, C, h, w)
        solver, timesteps = preset.prepare(pipe.scheduler, preset.num_steps or 12, start.device, 9)
        state = SamplingState(
            latents=start, timesteps=timesteps, solver=solver, is_float32=preset.solver is not None
        )
        while not state.is_done:
            state.move((state.latents - inputs["latents"]) / 2)
        found += [timesteps / 1000, state.latents]
    return found


_DRAWN = ("noisy", "context", "pooled", "timesteps")
PARTS = (
    PartCheck("vision tower", ("pixels",), vision, convolves=True),
    PartCheck("VLM, text", ("prompt_ids",), read_text),
    PartCheck("VLM, image", ("edit_ids", "edit_mask", "features", "pixels"), read_image),
    PartCheck("bridge", ("states",), bridge),
    PartCheck("DiT, text", _DRAWN, draw_text, convolves=True),
    PartCheck("DiT, reference", (*_DRAWN, "reference"), draw_edit, convolves=True),
    PartCheck("VAE encoder", ("pixels",), encode, convolves=True),
    PartCheck("VAE decoder", ("latents",), decode, convolves=True),
    PartCheck("solver", ("start", "latents"), walk),
)
