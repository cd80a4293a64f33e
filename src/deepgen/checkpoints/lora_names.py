"""Module names that a LoRA file may use, and the modules of our pipeline they mean.

The table is built from the models themselves, so what is not in a model is not in the table. The DiT has two
families of names: those of diffusers, which are ours, and those of Stability AI's own code, which most SD3
trainers write. In the latter query, key and value are one module (`qkv`), and the modulation of the output
and of the last context block has shift before scale, where ours has scale before shift: both only reorder the
rows of B. Source of the correspondence: diffusers' conversion script for SD3 checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from deepgen.checkpoints.lora_keys import LoraKey
from deepgen.checkpoints.names import vlm_name
from deepgen.moved import renamed

_QKV = ("to_q", "to_k", "to_v")
_ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")

# Stability AI's name -> ours, outside the blocks and inside
_OUTER = {
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
_BLOCK = {
    "x_block.attn.proj": "attn.to_out.0",
    "context_block.attn.proj": "attn.to_add_out",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
    "x_block.adaLN_modulation.1": "norm1.linear",
}
_FUSED = {
    "x_block.attn.qkv": [f"attn.{name}" for name in _QKV],
    "context_block.attn.qkv": [f"attn.{name}" for name in _ADDED],
    "x_block.attn2.qkv": [f"attn2.{name}" for name in _QKV],
}


@dataclass(frozen=True)
class LoraTarget:
    """A module of the pipeline, and which rows of the file's B are its own, in its order.

    Attributes:
        part: transformer, connector or vlm.
        name: the module's full name within the part.
        module: the layer itself, without adapters around it.
        rows: (first, last + 1) of B, to be put one below the other; None: all as they are.
    """

    part: str
    name: str
    module: nn.Module
    rows: tuple[tuple[int, int], ...] | None = None


class LoraTargetTable:
    """Looks modules up by the names of trainers.

    Args:
        models: the parts of a pipeline by name.
    """

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        self.modules = {part: dict(_layers(model)) for part, model in models.items()}
        self._dotted: dict[tuple[str, str], tuple[LoraTarget, ...]] = {}
        for part, layers in self.modules.items():
            for name, module in layers.items():
                self._dotted[part, name] = (LoraTarget(part, name, module),)
                if name.endswith(".to_out.0"):  # as the oldest files of diffusers name it
                    self._dotted[part, name.removesuffix(".0")] = (LoraTarget(part, name, module),)
        if "transformer" in models:
            for name, places in _of_stability(self.modules["transformer"]):
                self._dotted["transformer", name] = places
        self._flat: dict[str, set[tuple[LoraTarget, ...]]] = {}
        for (_, name), places in self._dotted.items():
            self._flat.setdefault(name.replace(".", "_"), set()).add(places)

    def find(self, key: LoraKey) -> tuple[LoraTarget, ...]:
        """The modules a key is for: none, one, or the three that a fused one is divided into.

        A flattened name that could mean two modules finds none.
        """
        if key.is_flattened:
            found = self._flat.get(key.module, set())
            return next(iter(found)) if len(found) == 1 else ()
        for part in (key.part,) if key.part else tuple(self.modules):
            name = vlm_name(key.module) if part == "vlm" else key.module
            if places := self._dotted.get((part, name)):
                return places
        return ()

    def __str__(self) -> str:
        """What there is, in a few words for an error."""
        kinds = []
        for part, layers in self.modules.items():
            names = list(layers)
            example = next(
                (n for n in names if n.endswith(("attn.to_q", "q_proj"))), names[0] if names else ""
            )
            kinds.append(f"{part} ({len(names)} layers, such as {example})")
        return ", ".join(kinds)


def output_size(module: nn.Module) -> int:
    """Rows of B: what a linear layer or a convolution gives, or the width of an embedding."""
    layer: Any = module
    if isinstance(module, nn.Embedding):
        return layer.embedding_dim
    return layer.out_features if hasattr(layer, "out_features") else layer.out_channels


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers LoRA can be put on; those of adapters that are there already are no layers of the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapters = tuple(
        f"{name}." for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)
    )
    for name, module in model.named_modules():
        if name.startswith(adapters):
            continue
        layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Embedding)):
            yield name, layer


def _of_stability(layers: Mapping[str, nn.Module]) -> Iterator[tuple[str, tuple[LoraTarget, ...]]]:
    """Stability AI's names of the layers that this DiT has."""
    depth = len({name.split(".")[1] for name in layers if name.startswith("transformer_blocks.")})
    for theirs, ours in _OUTER.items():
        if ours in layers:
            yield theirs, (LoraTarget("transformer", ours, layers[ours]),)
    yield from _swapped("final_layer.adaLN_modulation.1", "norm_out.linear", layers)
    for number in range(depth):
        block, joint = f"transformer_blocks.{number}", f"joint_blocks.{number}"
        for theirs, ours in _BLOCK.items():
            if (name := f"{block}.{ours}") in layers:
                yield f"{joint}.{theirs}", (LoraTarget("transformer", name, layers[name]),)
        for theirs, three in _FUSED.items():
            names = [f"{block}.{ours}" for ours in three]
            if all(name in layers for name in names):
                yield from _fused(f"{joint}.{theirs}", names, layers)
        name = f"{block}.norm1_context.linear"
        if name not in layers:
            continue
        if number == depth - 1 and f"{block}.attn.to_add_out" not in layers:  # it is only read there
            yield from _swapped(f"{joint}.context_block.adaLN_modulation.1", name, layers)
        else:
            yield (
                f"{joint}.context_block.adaLN_modulation.1",
                (LoraTarget("transformer", name, layers[name]),),
            )


def _fused(
    theirs: str, names: list[str], layers: Mapping[str, nn.Module]
) -> Iterator[tuple[str, tuple[LoraTarget, ...]]]:
    """Query, key and value one below the other; some trainers number the three instead."""
    places, start = [], 0
    for number, name in enumerate(names):
        stop = start + output_size(layers[name])
        places.append(LoraTarget("transformer", name, layers[name], ((start, stop),)))
        yield f"{theirs}.{number}", (LoraTarget("transformer", name, layers[name]),)
        start = stop
    yield theirs, tuple(places)


def _swapped(
    theirs: str, ours: str, layers: Mapping[str, nn.Module]
) -> Iterator[tuple[str, tuple[LoraTarget, ...]]]:
    """Shift and scale there, scale and shift here."""
    if ours in layers:
        width = output_size(layers[ours])
        rows = ((width // 2, width), (0, width // 2))
        yield theirs, (LoraTarget("transformer", ours, layers[ours], rows),)


__getattr__ = renamed(
    __name__,
    {
        "Place": "deepgen.checkpoints.lora_names.LoraTarget",
        "PlaceTable": "deepgen.checkpoints.lora_names.LoraTargetTable",
    },
)
