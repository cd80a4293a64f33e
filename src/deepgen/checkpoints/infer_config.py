"""Configs read off tensor shapes, for checkpoints that carry none.

Shapes tell everything but the connector's head count, its tap stride when the depth of the VLM is unknown,
and the DiT's sample size. Those come from a named architecture of the same shapes, a config beside the
checkpoint, or the caller.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

from deepgen.checkpoints.names import THINK_TOKENS
from deepgen.checkpoints.tensors import CheckpointError, LazyTensor
from deepgen.models.config import ARCHITECTURES, tap_indices

_TAP_STRIDE = 6  # of the published model


def connector_config(
    tensors: Mapping[str, LazyTensor],
    vlm_num_layers: int | None,
    hints: Mapping[str, Any] | None = None,
    spare_heads: int | None = None,
) -> dict[str, Any]:
    """Keyword arguments of the connector. Shapes win over `hints`, which fill in what shapes cannot tell.

    Args:
        tensors: by our names.
        vlm_num_layers: depth of the VLM it reads, None if unknown.
        hints: config found beside the checkpoint, or given by the caller.
        spare_heads: number of heads if nothing tells it, for when only shapes matter.
    """
    hints = dict(hints or {})
    shape = _shapes(tensors, "connector")
    taps_width, vlm_width = shape("tap_projector.weight")[1], shape(THINK_TOKENS)[1]
    sizes = {
        "hidden_size": shape("tap_projector.weight")[0],
        "intermediate_size": shape("layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": _count(tensors, r"layers\.(\d+)\."),
        "num_think_tokens": shape(THINK_TOKENS)[0],
        "vlm_hidden_size": vlm_width,
        "pooled_projection_dim": shape("pooled_projector.weight")[0],
        "joint_attention_dim": shape("context_projector.weight")[0],
    }
    if taps_width % vlm_width:
        raise CheckpointError(
            f"projector_1 reads {taps_width} channels, no multiple of the think tokens' width {vlm_width}"
        )
    num_taps = taps_width // vlm_width
    variant = hints.get("variant") or ("last_hidden" if num_taps == 1 else "scb")
    named = next(
        (
            known.connector
            for known in ARCHITECTURES.values()
            if all(known.connector[key] == value for key, value in sizes.items())
        ),
        {},
    )
    depth = hints.get("vlm_num_layers") or vlm_num_layers or named.get("vlm_num_layers")
    stride = hints.get("tap_stride") or named.get("tap_stride", _TAP_STRIDE)
    if depth is None:
        depth = stride * num_taps + (stride == 1)  # the least depth with that many taps
    taps = hints.get("taps")
    if taps is not None and len(taps) != num_taps:
        raise CheckpointError(
            f"projector_1 reads {num_taps} VLM layers, and the config names {len(taps)} taps: {taps}"
        )
    if variant == "scb" and taps is None and len(tap_indices(depth, stride)) != num_taps:
        fitting = [s for s in range(1, depth) if len(tap_indices(depth, s)) == num_taps]
        if len(fitting) != 1:
            raise CheckpointError(
                f"projector_1 reads {num_taps} VLM layers, but every {stride}th of {depth} layers is "
                f"{len(tap_indices(depth, stride))}; the base VLM is another one, or pass connector_config="
                f"{{'tap_stride': N}} (fitting: {fitting or 'none'}) or {{'taps': [LAYER, ...]}}"
            )
        stride = fitting[0]
    heads = hints.get("num_attention_heads") or named.get("num_attention_heads") or spare_heads
    if heads is None:
        raise CheckpointError(
            "the number of attention heads of this connector cannot be read off its tensors "
            f"(width {sizes['hidden_size']}); say it with --connector-heads N, in Python with "
            "connector_config={'num_attention_heads': N}, or in config.json beside the file: "
            '{"connector": {"num_attention_heads": N}}'
        )
    return {
        **sizes,
        "num_attention_heads": heads,
        "vlm_num_layers": depth,
        "tap_stride": stride,
        "variant": variant,
        **({} if taps is None else {"taps": list(taps)}),
    }


def transformer_config(
    tensors: Mapping[str, LazyTensor], hints: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Keyword arguments of the DiT. `hints` give the sample size, which no tensor shows."""
    shape = _shapes(tensors, "transformer")
    width, in_channels, patch, _ = shape("pos_embed.proj.weight")
    head = shape("transformer_blocks.0.attn.norm_q.weight")[0]
    dual = {
        int(match.group(1))
        for name in tensors
        if (match := re.match(r"transformer_blocks\.(\d+)\.attn2\.", name))
    }
    sizes = {
        "patch_size": patch,
        "in_channels": in_channels,
        "out_channels": shape("proj_out.weight")[0] // patch**2,
        "num_layers": _count(tensors, r"transformer_blocks\.(\d+)\."),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shape("context_embedder.weight")[1],
        "caption_projection_dim": shape("context_embedder.weight")[0],
        "pooled_projection_dim": shape("time_text_embed.text_embedder.linear_1.weight")[1],
        "pos_embed_max_size": isqrt(shape("pos_embed.pos_embed")[1]),
        "dual_attention_layers": tuple(sorted(dual)),
        "qk_norm": "rms_norm",
    }
    for known in ARCHITECTURES.values():
        if all(known.transformer[key] == value for key, value in sizes.items()):
            return dict(known.transformer)
    return {**sizes, "sample_size": (hints or {}).get("sample_size", 128)}


def _shapes(tensors: Mapping[str, LazyTensor], part: str) -> Any:
    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise CheckpointError(
                f"the {part} has no {name}, from which its size is read; it has {len(tensors)} tensors"
                + (f", such as {', '.join(list(tensors)[:3])}" if tensors else "")
            )
        return tensors[name].shape

    return shape


def _count(tensors: Mapping[str, LazyTensor], pattern: str) -> int:
    numbers = {int(match.group(1)) for name in tensors if (match := re.match(pattern, name))}
    return max(numbers, default=-1) + 1
