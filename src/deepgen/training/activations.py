"""Memory that autograd keeps from the forward of a training sample, counted rather than estimated.

One layer of each kind runs on fake tensors of the real sizes, which have shape and type but no memory, and
every tensor that autograd saves for the backward is added up. Layers of a kind are alike, so the rest is
multiplication. Changes of the models, adapters, dropout and autocast are thereby in the count.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from transformers.cache_utils import DynamicCache

from deepgen.planning.flops import Positions, is_trained

# Tensors of the first level's size that a block of the VAE holds at once: input, normed, activated, output.
_VAE_COPIES = 4


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Types of a run: `compute` of frozen weights and of products, `trained` of weights that get gradients.

    Where the two differ, autocast converts; `is_cuda` follows CUDA's list, by which layer norms are widened.
    """

    compute: torch.dtype
    trained: torch.dtype
    is_cuda: bool = True

    @property
    def is_autocast(self) -> bool:
        """Whether weights are cast where they are used."""
        return self.compute != self.trained


@dataclass(frozen=True)
class Kept:
    """Bytes of one sample.

    Attributes:
        saved: between forward and backward.
        working: of the layer that is computed again, under activation checkpointing; else 0.
    """

    saved: float
    working: float = 0.0

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.saved + other.saved, max(self.working, other.working))

    def __mul__(self, layers: int) -> Kept:
        return Kept(self.saved * layers, self.working)


def sample_activations(
    models: Mapping[str, Any],
    p: Positions,
    arithmetic: Arithmetic,
    *,
    is_prompt_split: bool,
    is_checkpointing: bool,
) -> dict[str, Kept]:
    """Of one sample, by part; what is trained is what requires a gradient in `models`.

    Checkpointing is that of connector and DiT, and of the VLM where an adapter is trained in it.
    """
    vlm, connector, transformer = (models[name] for name in ("vlm", "connector", "transformer"))
    adapts_vlm = is_trained(vlm.language_model)
    into_vlm = adapts_vlm or connector.think_tokens.weight.requires_grad
    into_connector = into_vlm or is_trained(connector)
    into_transformer = into_connector or is_trained(transformer)
    kept = {"vlm": Kept(0.0), "connector": Kept(0.0), "transformer": Kept(0.0)}
    if into_vlm:
        is_split = is_prompt_split and not adapts_vlm
        kept["vlm"] = _language_model(
            vlm, connector, p, arithmetic, is_split, is_checkpointing and adapts_vlm
        )
    if into_connector:
        kept["connector"] = _bridge(connector, p, arithmetic, is_checkpointing)
    if into_transformer:
        kept["transformer"] = _dit(transformer, p, arithmetic, is_checkpointing, into_connector)
    return kept


def vae_working_bytes(vae: Any, image_size: int, compute: torch.dtype) -> float:
    """What encoding one image holds at its peak, without gradient: some feature maps of full size."""
    return _VAE_COPIES * vae.config.block_out_channels[0] * image_size**2 * compute.itemsize


# --- the parts


def _language_model(
    vlm: Any, connector: Any, p: Positions, arithmetic: Arithmetic, is_split: bool, is_checkpointing: bool
) -> Kept:
    layers = vlm.language_model.layers
    depth = len(layers) if connector.taps is None else max(connector.taps)
    config = vlm.config.text_config
    head = config.hidden_size // config.num_attention_heads
    tokens = p.think if is_split else p.context

    def call(layer: nn.Module) -> Any:
        states = _state(arithmetic, tokens, config.hidden_size)
        rotary = (_constant(arithmetic, tokens, head), _constant(arithmetic, tokens, head))
        if not is_split:
            return layer(states, attention_mask=None, position_embeddings=rotary)
        cache = DynamicCache()
        keys = torch.empty(1, config.num_key_value_heads, p.prompt, head, dtype=arithmetic.compute)
        cache.update(keys, keys.clone(), layer.self_attn.layer_idx)  # the prompt's
        mask = torch.ones(1, 1, tokens, p.context, dtype=torch.bool)
        return layer(
            states, attention_mask=mask, position_embeddings=rotary, past_key_values=cache, use_cache=True
        )

    inputs = tokens * config.hidden_size * arithmetic.compute.itemsize
    kept = _layer(layers[0], call, arithmetic, inputs if is_checkpointing else None) * depth
    taps = 1 if connector.taps is None else len(connector.taps)
    return kept + Kept(p.context * taps * config.hidden_size * arithmetic.compute.itemsize)  # stacked


def _bridge(connector: Any, p: Positions, arithmetic: Arithmetic, is_checkpointing: bool) -> Kept:
    config = connector.config
    inputs = p.context * config.hidden_size * arithmetic.compute.itemsize

    def call(layer: nn.Module) -> Any:
        return layer(_state(arithmetic, p.context, config.hidden_size))

    kept = _layer(connector.layers[0], call, arithmetic, inputs if is_checkpointing else None)
    ends = p.context * (config.hidden_size + config.joint_attention_dim) * arithmetic.compute.itemsize
    return kept * len(connector.layers) + Kept(ends)


def _dit(
    transformer: Any, p: Positions, arithmetic: Arithmetic, is_checkpointing: bool, has_condition: bool
) -> Kept:
    width = transformer.inner_dim
    inputs = (p.image + p.context) * width * arithmetic.compute.itemsize
    is_modulation_reached = has_condition or is_trained(transformer.time_text_embed)

    def call(block: nn.Module) -> Any:
        temb = torch.empty(1, width, dtype=arithmetic.compute, requires_grad=is_modulation_reached)
        image, context = _state(arithmetic, p.image, width), _state(arithmetic, p.context, width)
        return block(image, context, temb, joint_attention_kwargs={})

    kinds: dict[tuple[bool, bool], list[nn.Module]] = {}
    for block in transformer.transformer_blocks:
        kinds.setdefault((block.use_dual_attention, block.context_pre_only), []).append(block)
    total = Kept(0.0)
    for blocks in kinds.values():
        kept = _layer(blocks[0], call, arithmetic, inputs if is_checkpointing else None)
        total += kept * len(blocks)
    return total


# --- counting


def _layer(
    layer: nn.Module, call: Callable[[nn.Module], Any], arithmetic: Arithmetic, inputs: float | None
) -> Kept:
    """Of one layer; with `inputs`, the bytes of its inputs, it keeps those and is computed again."""
    layer = copy.deepcopy(layer).train()
    with FakeTensorMode():
        _give_types(layer, arithmetic)
        saved = saved_bytes(lambda: call(layer), layer, arithmetic)
    return Kept(saved) if inputs is None else Kept(inputs, working=saved)


def saved_bytes(call: Callable[[], Any], module: nn.Module, arithmetic: Arithmetic) -> float:
    """Bytes of the distinct tensors autograd saves while `call` runs `module`, weights and their casts left
    out.
    """
    weights = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    seen: dict[int, Any] = {}  # storages, kept alive so that their addresses stay distinct

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and not _is_cast_weight(tensor):
            seen[storage._cdata] = storage
        return tensor

    autocast = torch.autocast("cpu", arithmetic.compute, enabled=arithmetic.is_autocast)
    widening = _WideLayerNorms(arithmetic.is_cuda and arithmetic.is_autocast)
    with autocast, widening, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = call()
    del output
    return float(sum(storage.nbytes() for storage in seen.values()))


def _is_cast_weight(tensor: Tensor) -> bool:
    """Whether it is a parameter's cast, perhaps transposed: those are counted with the weights."""
    node: Any = tensor.grad_fn
    if node is None:
        return False
    while type(node).__name__ in ("ToCopyBackward0", "TBackward0", "ViewBackward0"):
        node = node.next_functions[0][0]
    return type(node).__name__ == "AccumulateGrad" and isinstance(node.variable, nn.Parameter)


class _WideLayerNorms(TorchFunctionMode):
    """CUDA's autocast computes layer norms in float32, the CPU's does not."""

    def __init__(self, is_active: bool) -> None:
        super().__init__()
        self.is_active = is_active

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.is_active and function is F.layer_norm:
            args = tuple(x.float() if isinstance(x, Tensor) else x for x in args)
        return function(*args, **(kwargs or {}))


def _give_types(layer: nn.Module, arithmetic: Arithmetic) -> None:
    """Fake parameters of the run's types in place of those on the meta device."""
    for module in layer.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                dtype = arithmetic.trained if parameter.requires_grad else arithmetic.compute
                fake = torch.empty(parameter.shape, dtype=dtype)
                module._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)


def _state(arithmetic: Arithmetic, tokens: int, width: int) -> Tensor:
    return torch.empty(1, tokens, width, dtype=arithmetic.compute, requires_grad=True)


def _constant(arithmetic: Arithmetic, tokens: int, width: int) -> Tensor:
    return torch.empty(1, tokens, width, dtype=arithmetic.compute)
