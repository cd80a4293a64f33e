"""The named architectures: every size of every part, as plain dictionaries the libraries' own configs accept.

`deepgen-1.0` is the published model (spec of its checkpoint: 24 joint blocks, six connector layers, 128 think
tokens). `deepgen-tiny` and `deepgen-shapes` have the same classes and the same wiring and fit in a package.
`scb` takes its condition from six (or fewer) layers of the VLM, `last_hidden` from the last one only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deepgen.moved import renamed

Variant = Literal["scb", "last_hidden"]


def tap_indices(num_layers: int, stride: int = 6) -> tuple[int, ...]:
    """Hidden states that feed the connector, deepest first: N-1, N-1-stride, ... down to 1.

    Index j is the residual stream after decoder layer j; 0 would be the embeddings and is never tapped.
    """
    return tuple(range(num_layers - 1, 0, -stride))


def chosen_taps(taps: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Hidden states that were named one by one, deepest first; ValueError where one is none, or is twice.

    Args:
        taps: from 1 to `num_layers` - 1, in any order. The last layer's state is read with
            variant="last_hidden" alone, after the norm.
        num_layers: of the VLM.
    """
    wrong = [
        tap for tap in taps if isinstance(tap, bool) or not isinstance(tap, int) or not 0 < tap < num_layers
    ]
    if wrong or not taps:
        raise ValueError(
            f"taps are numbers of VLM layers from 1 to {num_layers - 1}, got {wrong[0] if wrong else 'none'}"
        )
    if twice := [tap for tap in taps if list(taps).count(tap) > 1]:
        raise ValueError(f"layer {twice[0]} is among the taps twice")
    return tuple(sorted(taps, reverse=True))


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of one model; each dictionary is the keyword arguments of that part's config."""

    name: str
    connector: dict[str, Any]
    transformer: dict[str, Any]
    vae: dict[str, Any]
    vlm: dict[str, Any]
    scheduler: dict[str, Any]
    defaults: dict[str, Any] = field(default_factory=dict)  # pipeline settings this model was tuned for


_SCHEDULER = {"num_train_timesteps": 1000, "shift": 3.0}

_DEEPGEN_VLM = {
    "text_config": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 128000,
        "max_window_layers": 70,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": True,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
    },
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "tie_word_embeddings": True,
}

_DEEPGEN_TRANSFORMER = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}

_DEEPGEN_VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 16,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}

_DEEPGEN_CONNECTOR = {
    "hidden_size": 2048,
    "intermediate_size": 11946,
    "num_hidden_layers": 6,
    "num_attention_heads": 32,
    "num_think_tokens": 128,
    "vlm_hidden_size": 2048,
    "vlm_num_layers": 36,
    "pooled_projection_dim": 2048,
    "joint_attention_dim": 4096,
    "variant": "scb",
}

DEEPGEN_1_0 = Architecture(
    name="deepgen-1.0",
    connector=_DEEPGEN_CONNECTOR,
    transformer=_DEEPGEN_TRANSFORMER,
    vae=_DEEPGEN_VAE,
    vlm=_DEEPGEN_VLM,
    scheduler=_SCHEDULER,
    defaults={"height": 512, "width": 512, "num_inference_steps": 50, "guidance_scale": 4.0},
)

DEEPGEN_1_0_LAST_HIDDEN = Architecture(
    name="deepgen-1.0-last-hidden",
    connector={**_DEEPGEN_CONNECTOR, "variant": "last_hidden"},
    transformer=_DEEPGEN_TRANSFORMER,
    vae=_DEEPGEN_VAE,
    vlm=_DEEPGEN_VLM,
    scheduler=_SCHEDULER,
    defaults=DEEPGEN_1_0.defaults,
)

# Under six million parameters, 12 MB in bfloat16. One DiT token is one 32-pixel cell of the world: in equal
# time this learnt several objects where tokens of 16 pixels learnt none (docs/shapes). Token ids follow
# shapes/vocabulary.
DEEPGEN_SHAPES = Architecture(
    name="deepgen-shapes",
    connector={
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_think_tokens": 8,
        "vlm_hidden_size": 128,
        "vlm_num_layers": 6,
        "tap_stride": 2,
        "pooled_projection_dim": 128,
        "joint_attention_dim": 128,
        "variant": "scb",
    },
    transformer={
        "sample_size": 12,
        "patch_size": 4,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 6,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "joint_attention_dim": 128,
        "caption_projection_dim": 128,
        "pooled_projection_dim": 128,
        "pos_embed_max_size": 12,
        "dual_attention_layers": (0,),
        "qk_norm": "rms_norm",
    },
    vae={
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": (16, 32, 48, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "sample_size": 96,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    vlm={
        "text_config": {
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 5,  # the sixth would feed no tap, so it is not stored
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 128,
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 4, 4]},
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        "vision_config": {
            "depth": 3,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": 128,
            "fullatt_block_indexes": [2],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
        },
        "image_token_id": 6,
        "video_token_id": 7,
        "vision_start_token_id": 3,
        "vision_end_token_id": 4,
        "tie_word_embeddings": True,
    },
    scheduler={"num_train_timesteps": 1000, "shift": 2.0},
    defaults={
        "height": 96,
        "width": 96,
        "num_inference_steps": 24,
        "guidance_scale": 1.75,
        "edit_guidance_scale": 1.25,
    },
)

# The storybook's model: wider than the flat world's, with a letter's worth of slots more.
DEEPGEN_TINY = Architecture(
    name="deepgen-tiny",
    connector={
        "hidden_size": 192,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_think_tokens": 10,
        "vlm_hidden_size": 192,
        "vlm_num_layers": 6,
        "tap_stride": 2,
        "pooled_projection_dim": 256,
        "joint_attention_dim": 256,
        "variant": "scb",
    },
    transformer={
        "sample_size": 12,
        "patch_size": 4,
        "in_channels": 8,
        "out_channels": 8,
        "num_layers": 6,
        "attention_head_dim": 32,
        "num_attention_heads": 6,
        "joint_attention_dim": 256,
        "caption_projection_dim": 192,
        "pooled_projection_dim": 256,
        "pos_embed_max_size": 12,
        "dual_attention_layers": (0,),
        "qk_norm": "rms_norm",
    },
    vae={
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 8,
        "block_out_channels": (16, 32, 64, 128),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "mid_block_add_attention": False,
        "sample_size": 96,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    vlm={
        "text_config": {
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 5,  # the sixth would feed no tap, so it is not stored
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "vocab_size": 1280,
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 4, 4]},
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        "vision_config": {
            "depth": 4,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_heads": 3,
            "out_hidden_size": 192,
            "fullatt_block_indexes": [3],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 28,
        },
        "image_token_id": 6,
        "video_token_id": 7,
        "vision_start_token_id": 3,
        "vision_end_token_id": 4,
        "tie_word_embeddings": True,
    },
    scheduler={"num_train_timesteps": 1000, "shift": 2.0},
    defaults={
        "height": 96,
        "width": 96,
        "num_inference_steps": 8,
        "guidance_scale": 1.5,
        "edit_guidance_scale": 1.25,
        "keep_unchanged": True,
    },
)


ARCHITECTURES = {a.name: a for a in (DEEPGEN_1_0, DEEPGEN_1_0_LAST_HIDDEN, DEEPGEN_SHAPES, DEEPGEN_TINY)}


def architecture(name: str) -> Architecture:
    """The architecture of that name, or a ValueError that lists the known ones."""
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


__getattr__ = renamed(__name__, {"DEEPGEN_STORYBOOK": "deepgen.models.config.DEEPGEN_TINY"})
