"""Models to measure: the real widths without the real disk.

`block` has every layer of DeepGen 1.0 at its width, in bfloat16 with random numbers, but keeps one layer of
each kind and passes through it again and again: 1.6 GB instead of 13. A layer's weights do not fit a
processor's cache either way, so a repeated layer costs what another one would. `shorten` also makes the
stacks shorter; what is then measured is scaled by the FLOP counts of the two, and the page says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from deepgen.checkpoints.parts import WEIGHTED, _fill_computed_buffers, build, named_config
from deepgen.models.config import DEEPGEN_1_0, DEEPGEN_TINY, Architecture
from deepgen.models.precision import compute_in_float32
from deepgen.pipeline import TINY_DIR, DeepGenPipeline
from deepgen.planning import flops
from deepgen.planning.flops import Positions, SampleShape

Size = Literal["tiny", "block", "full"]


@dataclass
class Subject:
    """A pipeline, how its numbers are to be read, and its sizes."""

    pipe: DeepGenPipeline
    size: Size
    shorten: int
    device: str
    arithmetic: torch.dtype
    counted: dict[str, Any]  # the parts on the meta device, as they are here
    whole: dict[str, Any]  # and as they are in the unshortened model
    facts: dict[str, Any] = field(default_factory=dict)

    def flops(self, part: str, sample: SampleShape, rows: int = 1, *, whole: bool = False) -> float:
        """FLOP of `rows` samples in a part; see `part_flops`."""
        return rows * part_flops(self.whole if whole else self.counted, part, sample)

    def scale(self, part: str, sample: SampleShape) -> float:
        """How much more the unshortened part computes."""
        return self.flops(part, sample, whole=True) / self.flops(part, sample)


def part_flops(models: dict[str, Any], part: str, sample: SampleShape) -> float:
    """FLOP of one sample in one part: vlm, vision, connector, encode (those three), dit, encoder, decoder."""
    p: Positions = flops.positions(models, sample)
    counts: dict[str, Callable[[], float]] = {
        "vlm": lambda: flops.language_model(models["vlm"], models["connector"], p, False, False).forward,
        "vision": lambda: flops.vision_tower(models["vlm"], p).forward if p.references else 0.0,
        "connector": lambda: flops.bridge(models["connector"], p, False).forward,
        "dit": lambda: flops.dit(models["transformer"], p, False).forward - _unread(models["transformer"], p),
        "encoder": lambda: flops.vae_encoder(models["vae"], sample.image_size).forward,
        "decoder": lambda: flops.vae_decoder(models["vae"], sample.image_size),
    }
    if part == "encode":
        return sum(counts[name]() for name in ("vlm", "vision", "connector"))
    return counts[part]()


def _unread(transformer: Any, p: Positions) -> float:
    """What the last block leaves out without gradient: queries nobody reads, and what follows from them."""
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    references = p.image - p.image_of_one
    linears = 2.0 * width**2 * (references * (2 + 8) + p.context)  # query, output and MLP; context's query
    return linears + 4.0 * width * (p.image + p.context) * (references + p.context)


def subject(
    size: Size, shorten: int, device: str, arithmetic: torch.dtype, folder: Path | None = None
) -> Subject:
    """The model of that size, ready to draw."""
    if size == "tiny":
        pipe = DeepGenPipeline.from_pretrained("tiny", dtype=torch.float32).to(device)
        arithmetic, parts = torch.float32, _counted(DEEPGEN_TINY)
    elif size == "full":
        if folder is None:
            raise ValueError("--size full needs --folder, a folder of the real size; random weights will do")
        pipe = DeepGenPipeline.from_pretrained(folder, dtype=torch.bfloat16).to(device)
        parts = _counted(DEEPGEN_1_0)
    else:
        pipe, parts = _blocks(_with_small_tokenizer(shortened(DEEPGEN_1_0, shorten)), device), None
    if size != "tiny" and arithmetic == torch.float32:
        for part in (pipe.vlm, pipe.connector, pipe.transformer):
            compute_in_float32(part)
        pipe.vae.float()
    pipe.set_progress_bar_config(disable=True)
    counted = _counted(shortened(DEEPGEN_1_0, shorten)) if parts is None else parts
    whole = _counted(DEEPGEN_1_0) if parts is None else parts
    return Subject(pipe, size, shorten, device, arithmetic, counted, whole)


def shortened(architecture: Architecture, by: int) -> Architecture:
    """Fewer layers of DiT, VLM and vision tower, in the same proportions; six taps in any case."""
    if by < 1:
        raise ValueError(f"--shorten must be at least 1, got {by}")
    if by == 1:
        return architecture
    depth = architecture.transformer["num_layers"]
    layers = max(3, round(depth / by))
    dual = max(1, round(len(architecture.transformer["dual_attention_layers"]) * layers / depth))
    text, vision = architecture.vlm["text_config"], architecture.vlm["vision_config"]
    stride = max(1, round(text["num_hidden_layers"] / by / 6))
    decoder = max(7, 6 * stride)
    tower = max(4, round(vision["depth"] / by / 4) * 4)
    full = [index for index in range(tower) if (index + 1) % 8 == 0] or [tower - 1]
    return replace(
        architecture,
        transformer={
            **architecture.transformer,
            "num_layers": layers,
            "dual_attention_layers": tuple(range(dual)),
        },
        connector={**architecture.connector, "vlm_num_layers": decoder, "tap_stride": stride},
        vlm={
            **architecture.vlm,
            "text_config": {**text, "num_hidden_layers": decoder},
            "vision_config": {**vision, "depth": tower, "fullatt_block_indexes": full},
        },
    )


def _with_small_tokenizer(architecture: Architecture) -> Architecture:
    """The same sizes with the token numbers of the small model, whose tokenizer is at hand."""
    numbers = {name: DEEPGEN_TINY.vlm[name] for name in DEEPGEN_TINY.vlm if name.endswith("_token_id")}
    return replace(architecture, vlm={**architecture.vlm, **numbers})


def _counted(architecture: Architecture) -> dict[str, Any]:
    """The four parts on the meta device, to count with."""
    return {name: build(name, named_config(name, architecture)) for name in WEIGHTED}


def _blocks(architecture: Architecture, device: str) -> DeepGenPipeline:
    """Random bfloat16 weights; equal layers are one layer."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from transformers import AutoTokenizer

    parts = {}
    for name in WEIGHTED:
        parts[name] = build(name, named_config(name, architecture), torch.bfloat16)
    for stack in (
        parts["transformer"].transformer_blocks,
        parts["vlm"].language_model.layers,
        parts["vlm"].visual.blocks,
        parts["connector"].layers,
    ):
        _repeat(stack)
    for part in parts.values():
        _fill(part)
        part.eval().to(device)
    return DeepGenPipeline(
        **parts,
        scheduler=FlowMatchEulerDiscreteScheduler(**architecture.scheduler),
        tokenizer=AutoTokenizer.from_pretrained(str(TINY_DIR / "tokenizer")),
        defaults=architecture.defaults,
    )


def _repeat(stack: nn.ModuleList) -> None:
    """Let equal layers be the first of them."""
    first: dict[Any, nn.Module] = {}
    for index, layer in enumerate(stack):
        shapes = (type(layer), tuple((name, tuple(p.shape)) for name, p in layer.named_parameters()))
        stack[index] = first.setdefault(shapes, layer)


def _fill(module: nn.Module) -> None:
    """Random numbers for what is on the meta device, norms one; in bfloat16."""
    for layer in module.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            value = torch.empty(parameter.shape, dtype=torch.bfloat16)
            value = value.fill_(1) if parameter.ndim == 1 and name == "weight" else value.normal_(std=0.02)
            setattr(layer, name, nn.Parameter(value, requires_grad=False))
        if not isinstance(module, PreTrainedModel):  # whose buffers are computed, below
            for name, buffer in layer.named_buffers(recurse=False):
                layer._buffers[name] = torch.randn(buffer.shape, dtype=torch.bfloat16) * 0.02
    _fill_computed_buffers(module)
