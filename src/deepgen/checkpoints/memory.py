"""Memory plans: how many bits each part is stored in, where it waits while unused, and whether the VAE tiles.

What a plan needs is computed from the real sizes of the parts on the meta device; nothing is loaded. Plans
that draw the same picture (16 bits, whatever waits in main memory) come before those that change it a little
(8 and 4 bits), and within each the faster first; `choose` takes the first that fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from deepgen.checkpoints.checkpoint import Checkpoint, read_checkpoint
from deepgen.checkpoints.layouts import HubOptions, detect
from deepgen.checkpoints.parts import WEIGHTED, build, named_config
from deepgen.models.config import ARCHITECTURES, Architecture
from deepgen.moved import renamed

Quantization = Literal["none", "int8", "nf4"]
Placement = Literal["none", "model", "group"]

GB = 10**9
TILE = 512  # pixels a side of what a tiled VAE decodes at once
QUANTIZED_PARTS = ("vlm", "transformer")
# A byte a weight and a float32 scale a row; half a byte and one float32 scale for 64 weights.
BYTES_PER_WEIGHT = {"none": 2.0, "int8": 1.0, "nf4": 0.5 + 4 / 64}
MARGIN = 0.95  # share of a memory that a plan may fill
DEVICE_RESERVE = GB // 2  # the accelerator's own context and the allocator's waste


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """One way to keep a model.

    Attributes:
        quantize: how linear layers of the VLM and the DiT are stored.
        offload: what waits in main memory: nothing, all parts but the one that runs, all layers but those
            that run.
        has_tiles: whether the VAE works in overlapping tiles.
    """

    quantize: Quantization = "none"
    offload: Placement = "none"
    has_tiles: bool = False

    def __str__(self) -> str:
        stored = {"none": "16 bits", "int8": "8 bits (int8)", "nf4": "4 bits (nf4)"}[self.quantize]
        placed = {
            "none": "all parts on the device",
            "model": "one part at a time on the device",
            "group": "layer by layer on the device",
        }[self.offload]
        return f"{stored}, {placed}{', tiled VAE' if self.has_tiles else ''}"


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """What is drawn, as far as memory depends on it; the default is what plans are made for.

    Attributes:
        height, width: in pixels; smaller pictures need less.
        references: pictures of that size that are given to an edit.
        rows: of the DiT's batch: 2 where both branches of guidance run together.
    """

    height: int = 1024
    width: int = 1024
    references: int = 0
    rows: int = 2


USUAL = ImageRequest()


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes a plan needs: on the device at its highest, and waiting in main memory."""

    device: int
    host: int


PLANS = (
    MemoryPlan(),
    MemoryPlan(has_tiles=True),
    MemoryPlan(offload="model"),
    MemoryPlan(offload="model", has_tiles=True),
    MemoryPlan(quantize="int8", has_tiles=True),
    MemoryPlan(quantize="int8", offload="model", has_tiles=True),
    MemoryPlan(quantize="nf4", offload="model", has_tiles=True),
    MemoryPlan(offload="group", has_tiles=True),
)


def choose(models: Mapping[str, nn.Module], budget: int, *, can_offload: bool = True) -> MemoryPlan:
    """The first plan whose need fits the budget in bytes.

    Args:
        models: by part, on the meta device.
        budget: bytes of the memory the model runs in.
        can_offload: whether the device has a memory of its own; a CPU and Apple silicon have not.

    Raises:
        ValueError: none fits; the message says what the smallest needs.
    """
    plans = [plan for plan in PLANS if can_offload or plan.offload == "none"]
    needs = [need(models, plan, value_bytes=2 if can_offload else 4) for plan in plans]
    for plan, needed in zip(plans, needs, strict=True):
        if needed.device <= MARGIN * budget:
            return plan
    least, smallest = min(
        zip((needed.device for needed in needs), map(str, plans), strict=True), key=lambda pair: pair[0]
    )
    raise ValueError(
        f"this model needs at least {least / GB:.1f} GB here ({smallest}), and {budget / GB:.1f} GB were to "
        "be enough; free some memory, or run it on another machine"
    )


def need(
    models: Mapping[str, nn.Module],
    plan: MemoryPlan,
    *,
    value_bytes: int = 2,
    image: ImageRequest = USUAL,
    stored: Mapping[str, int] | None = None,
) -> Need:
    """What a plan needs for one picture; a CPU computes in 4 bytes a value.

    `stored` holds the bytes of parts that are known already, or come from elsewhere, such as a GGUF file.
    """
    known = stored or {}
    weights = {
        name: known[name] if name in known else part_bytes(name, model, plan.quantize)
        for name, model in models.items()
    }
    running = {name: value_bytes * working_values(name, model, plan, image) for name, model in models.items()}
    total = sum(weights.values())
    if plan.offload == "none":
        return Need(device=total + max(running.values()) + DEVICE_RESERVE, host=0)
    if plan.offload == "model":
        peak = max(weights[name] + running[name] for name in models)
    else:  # the layer that runs and the one that comes next
        peak = max(2 * _largest_layer(model) + running[name] for name, model in models.items())
    return Need(device=peak + DEVICE_RESERVE, host=total)


def free_bytes(device: str) -> int:
    """Bytes that are free: of the accelerator's own memory, or of the machine's where it has none."""
    import psutil
    import torch

    return torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available


def part_bytes(name: str, model: nn.Module, quantize: Quantization) -> int:
    """Bytes of a part's stored tensors; the connector, the VAE, embeddings and norms keep 16 bits."""
    elements = sum(tensor.numel() for tensor in model.state_dict().values())
    if name not in QUANTIZED_PARTS or quantize == "none":
        return 2 * elements
    linear = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    narrow = sum(weight.numel() for weight in linear)
    scales = 4 * sum(len(weight) for weight in linear) if quantize == "int8" else 0
    return int(BYTES_PER_WEIGHT[quantize] * narrow) + scales + 2 * (elements - narrow)


def working_values(name: str, model: Any, plan: MemoryPlan, image: ImageRequest = USUAL) -> int:
    """Numbers a part computes with besides its weights, for one picture.

    The VAE's highest need is its widest map at full resolution, of which a convolution holds its input, its
    output and a copy. The DiT and the VLM hold the widest layer's output for both branches' tokens and a few
    more of their width. A quantised layer is widened while it runs.
    """
    config = model.config
    if name == "vae":
        sides = (image.height, image.width)
        height, width = (min(side, TILE) if plan.has_tiles else side for side in sides)
        widths = config["block_out_channels"]
        return 3 * height * width * (widths[1] if len(widths) > 1 else widths[0])
    if name == "transformer":
        patch = 8 * config["patch_size"]
        tokens = (image.height // patch) * (image.width // patch) * (1 + image.references)
        return dit_values(model, image.rows * (tokens + 1024)) + _widened(model, plan)
    if name == "vlm":
        text = config.text_config
        tokens = 1200 + image.references * (image.height // 32) * (image.width // 32)
        return image.rows * tokens * (2 * text.intermediate_size + 6 * text.hidden_size) + _widened(
            model, plan
        )
    return 0  # the connector works on a few hundred tokens


def dit_values(model: Any, tokens: int) -> int:
    """Numbers the DiT computes with besides its weights, for so many tokens of all rows."""
    return tokens * (4 + 6) * model.inner_dim


def _widened(model: nn.Module, plan: MemoryPlan) -> int:
    return 0 if plan.quantize == "none" else _largest_linear(model)


def _largest_linear(model: nn.Module) -> int:
    return max(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))


def _largest_layer(model: nn.Module) -> int:
    """Bytes of the largest module's own 16-bit tensors."""
    own = (
        sum(t.numel() for t in [*m.parameters(recurse=False), *m.buffers(recurse=False)])
        for m in model.modules()
    )
    return 2 * max(own)


def meta_models(source: str | Path, hub: HubOptions | None = None) -> dict[str, nn.Module]:
    """All parts of a named architecture, or of a checkpoint of any layout, on the meta device.

    Raises:
        FileNotFoundError, CheckpointError: as `detect` and `read_checkpoint` do.
        ValueError: a part comes from a base model and it is not known which.
    """
    if str(source) in ARCHITECTURES:
        named = ARCHITECTURES[str(source)]
        return {name: build(name, named_config(name, named)) for name in WEIGHTED}
    checkpoint = read_checkpoint(detect(source, hub), shapes_only=True)
    named = checkpoint.architecture()
    models = {name: _build(name, checkpoint, named) for name in WEIGHTED}
    missing = [name for name, model in models.items() if model is None]
    if missing:
        raise ValueError(
            f"{source}: the size of {', '.join(missing)} is not known before loading; "
            "run `deepgen convert` and load the folder it writes"
        )
    return {name: model for name, model in models.items() if model is not None}


def _build(name: str, checkpoint: Checkpoint, named: Architecture | None) -> nn.Module | None:
    part = checkpoint.parts.get(name)
    if part is not None and part.config is not None:
        return build(name, part.config)
    return None if named is None else build(name, named_config(name, named))


__getattr__ = renamed(__name__, {"Picture": "deepgen.checkpoints.memory.ImageRequest"})
