"""Arithmetic of one training sample, by part of the model. One multiply-add is two FLOP.

A linear layer or convolution with n weights that meets p positions costs 2 n p. So a part costs the sum over
its layers, and what a layer sees follows from its name: image tokens, context, prompt, patches, or one vector
per sample. Attention of q queries over k keys costs 4 q k d, causal attention half of it.

In training

    linear, trained                          3 x    output, gradient of the input, gradient of the weight
    linear, frozen, gradient passes through  2 x
    attention, gradient passes through     3.5 x    fused kernels compute the scores again on the way back
    no gradient                              1 x

and activation checkpointing adds one more forward. Norms, activations and additions move memory rather than
compute and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from deepgen.models.vlm import PIXELS_PER_TOKEN, VISION_SCALE
from deepgen.moved import renamed

_ATTENTION_IN_TRAINING = 3.5


@dataclass(frozen=True, kw_only=True)
class SampleShape:
    """Sizes of one example: a square picture, its prompt with template, and its references."""

    image_size: int = 512
    prompt_tokens: int = 80
    references: int = 0


@dataclass(frozen=True, kw_only=True)
class Positions:
    """How many positions one sample gives to each part."""

    image: int  # the DiT's tokens of target and references
    image_of_one: int
    prompt: int  # the VLM's, image tokens included
    think: int
    patches: int  # of all references in the vision tower
    references: int

    @property
    def context(self) -> int:
        """Positions that connector and DiT read."""
        return self.prompt + self.think


def positions(models: Mapping[str, Any], sample: SampleShape) -> Positions:
    """Of a square sample of these models."""
    side = sample.image_size
    return positions_of(models, side, side, prompt_tokens=sample.prompt_tokens, references=sample.references)


def positions_of(
    models: Mapping[str, Any], height: int, width: int, *, prompt_tokens: int, references: int
) -> Positions:
    """Of a picture and references of its size. A reference's vision tokens stand between a start and an end
    token.
    """
    vae, transformer, vision = models["vae"], models["transformer"], models["vlm"].visual.config
    pixels = transformer.config.patch_size * 2 ** (len(vae.config.block_out_channels) - 1)
    one = (height // pixels) * (width // pixels)
    tokens = (height // PIXELS_PER_TOKEN) * (width // PIXELS_PER_TOKEN)
    rows, columns = (int(side * VISION_SCALE) // vision.patch_size for side in (height, width))
    return Positions(
        image=one * (1 + references),
        image_of_one=one,
        prompt=prompt_tokens + references * (tokens + 2),
        think=models["connector"].think_tokens.weight.shape[0],
        patches=rows * columns * references,
        references=references,
    )


@dataclass(frozen=True)
class Work:
    """FLOP of one sample in one part."""

    forward: float
    training: float  # forward included

    def __add__(self, other: Work) -> Work:
        return Work(self.forward + other.forward, self.training + other.training)


def sample_flops(
    models: Mapping[str, Any],
    sample: SampleShape,
    *,
    is_prompt_split: bool = True,
    is_checkpointing: bool = False,
    has_cached_latents: bool = False,
    has_cached_vision: bool = False,
) -> dict[str, Work]:
    """FLOP of one sample by part; what is trained is what requires a gradient in `models`.

    Args:
        models: vlm, connector, transformer and vae, also on the meta device, adapters attached.
        sample: its sizes.
        is_prompt_split: the prompt is read without gradient, where nothing in the VLM is trained.
        is_checkpointing: activations of connector and DiT, and of an adapted VLM, are computed twice.
        has_cached_latents: the VAE does not run.
        has_cached_vision: the vision tower does not run.
    """
    p = positions(models, sample)
    vlm, connector, transformer, vae = (models[name] for name in ("vlm", "connector", "transformer", "vae"))
    adapts_vlm = is_trained(vlm.language_model)
    into_vlm = adapts_vlm or connector.think_tokens.weight.requires_grad
    into_connector = into_vlm or is_trained(connector)
    into_transformer = into_connector or is_trained(transformer)
    images = 1 + sample.references
    reading = language_model(vlm, connector, p, into_vlm, is_prompt_split and not adapts_vlm)
    return {
        "vae": Work(0, 0) if has_cached_latents else _scaled(images, vae_encoder(vae, sample.image_size)),
        "vision": Work(0, 0) if has_cached_vision else vision_tower(vlm, p),
        "vlm": _again(reading, is_checkpointing and adapts_vlm),
        "connector": _again(bridge(connector, p, into_connector), is_checkpointing and into_connector),
        "transformer": _again(dit(transformer, p, into_transformer), is_checkpointing and into_transformer),
    }


def is_trained(module: nn.Module) -> bool:
    """Whether any of its parameters requires a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())


# --- the parts


def vae_encoder(vae: Any, height: int, width: int | None = None) -> Work:
    """Convolutions at the resolution of their level, and the attention of the middle block; never trained.

    A picture without a width is square.
    """
    across = height if width is None else width
    last = len(vae.config.block_out_channels) - 1

    def pixels(name: str) -> int:
        found = re.match(r"encoder\.down_blocks\.(\d+)\.(downsamplers)?", name)
        if name.startswith(("decoder", "post_quant")):
            return 0
        level = last if found is None else int(found[1]) + bool(found[2])
        scale = 2 ** (0 if name == "encoder.conv_in" else level)
        return (height // scale) * (across // scale)

    tokens, channels = pixels("encoder.mid_block"), vae.config.block_out_channels[-1]
    return _linears(vae, pixels, False) + _attention(4 * tokens**2 * channels, False)


def vae_decoder(vae: Any, height: int, width: int | None = None) -> float:
    """Of decoding one picture; without a width it is square. The mirror image of the encoder."""
    across = height if width is None else width
    last = len(vae.config.block_out_channels) - 1

    def pixels(name: str) -> int:
        found = re.match(r"decoder\.up_blocks\.(\d+)\.(upsamplers)?", name)
        if name.startswith(("encoder", "quant_conv")):
            return 0
        level = last if found is None else last - int(found[1]) - bool(found[2])
        scale = 2 ** (0 if name == "decoder.conv_out" else level)
        return (height // scale) * (across // scale)

    tokens, channels = pixels("decoder.mid_block"), vae.config.block_out_channels[-1]
    return _linears(vae, pixels, False).forward + 4.0 * tokens**2 * channels


def vision_tower(vlm: Any, p: Positions) -> Work:
    """Patches attend within their window, in a few blocks to their whole image; the merger sees a quarter."""
    config = vlm.visual.config
    merged = p.patches // config.spatial_merge_size**2
    work = _linears(vlm.visual, lambda name: merged if name.startswith("merger") else p.patches, False)
    side = config.window_size // config.patch_size
    keys = min(side**2, p.patches // max(1, p.references))
    full = len(config.fullatt_block_indexes) * p.patches // max(1, p.references)
    windowed = (config.depth - len(config.fullatt_block_indexes)) * keys
    return work + _attention(4 * p.patches * (full + windowed) * config.hidden_size, False)


def language_model(vlm: Any, connector: Any, p: Positions, is_reached: bool, is_prompt_split: bool) -> Work:
    """Decoder layers up to the deepest tap, at every position; causal attention.

    With the prompt split, gradient passes through the think tokens alone, whose queries meet all keys.
    """
    layers = vlm.language_model.layers
    layers = layers if connector.taps is None else layers[: max(connector.taps)]
    config = vlm.config.text_config
    width = len(layers) * config.hidden_size
    if not is_prompt_split:
        pairs = p.context**2 / 2
        return _linears(layers, lambda _: p.context, is_reached) + _attention(4 * pairs * width, is_reached)
    prompt = _linears(layers, lambda _: p.prompt, False) + _attention(4 * p.prompt**2 / 2 * width, False)
    pairs = p.think * p.prompt + p.think**2 / 2
    think = _linears(layers, lambda _: p.think, is_reached) + _attention(4 * pairs * width, is_reached)
    return prompt + think


def bridge(connector: Any, p: Positions, is_reached: bool) -> Work:
    """Every position passes every layer; the pooled projector sees the mean."""
    config = connector.config
    work = _linears(
        connector, lambda name: 1 if name.startswith("pooled_projector") else p.context, is_reached
    )
    return work + _attention(4 * p.context**2 * config.hidden_size * config.num_hidden_layers, is_reached)


# Of the DiT: layers that see the context, and layers that see one vector per sample.
_CONTEXT = re.compile(r"context_embedder|\.attn\.(add_[qkv]_proj|to_add_out)|\.ff_context\.")
_VECTOR = re.compile(r"time_text_embed|norm1\.linear|norm1_context\.linear|norm_out\.linear")


def dit(transformer: Any, p: Positions, is_reached: bool) -> Work:
    """Joint attention over image and context tokens; dual blocks attend among the image tokens once more."""

    def seen(name: str) -> int:
        if _VECTOR.search(name):
            return 1
        if name == "proj_out":
            return p.image_of_one  # of the target alone
        return p.context if _CONTEXT.search(name) else p.image

    config = transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    joint = config.num_layers * (p.image + p.context) ** 2
    dual = len(config.dual_attention_layers) * p.image**2
    return _linears(transformer, seen, is_reached) + _attention(4 * (joint + dual) * width, is_reached)


# --- the rules


def _linears(module: nn.Module, seen: Callable[[str], int], is_reached: bool) -> Work:
    """2 n p over all linear layers and convolutions; `seen` says how many positions one meets, by name."""
    work = Work(0, 0)
    for name, weight in _weights(module):
        forward = 2.0 * weight.numel() * seen(name)
        times = 1 if not is_reached else 3 if weight.requires_grad else 2
        work += Work(forward, times * forward)
    return work


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d):
            yield name, layer.weight


def _attention(forward: float, is_reached: bool) -> Work:
    return Work(forward, (_ATTENTION_IN_TRAINING if is_reached else 1) * forward)


def _again(work: Work, is_checkpointing: bool) -> Work:
    return Work(work.forward, work.training + work.forward * is_checkpointing)


def _scaled(times: int, work: Work) -> Work:
    return Work(times * work.forward, times * work.training)


__getattr__ = renamed(__name__, {"Sample": "deepgen.planning.flops.SampleShape"})
