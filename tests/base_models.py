"""Base models as their own libraries write them: a plain Qwen2.5-VL and an SD3 pipeline.

Random weights, small sizes. The tokenizer is the real Qwen2.5-VL class with a small vocabulary (goldens/).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

TOKENIZER = Path(__file__).parent / "goldens" / "tokenizer"
VOCABULARY = 359  # image_pad is its last token but one


def write_qwen(folder: Path, *, width: int = 32, depth: int = 8, tokenizer: bool = True) -> Path:
    """What `Qwen2_5_VLForConditionalGeneration.save_pretrained` and its tokenizer write."""
    torch.manual_seed(1)
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": width,
            "intermediate_size": 48,
            "num_hidden_layers": depth,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 384,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
            "bos_token_id": 352,
            "eos_token_id": 354,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": width,
            "fullatt_block_indexes": [1],
            "window_size": 112,
        },
        image_token_id=358,
        vision_start_token_id=355,
        vision_end_token_id=356,
        tie_word_embeddings=True,
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    if tokenizer:
        for file in TOKENIZER.iterdir():
            shutil.copy(file, folder)
    return folder


def write_sd3(folder: Path, *, latent_channels: int = 16) -> Path:
    """What `StableDiffusion3Pipeline.save_pretrained` writes, without text encoders."""
    torch.manual_seed(2)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=40,
        caption_projection_dim=16,
        pooled_projection_dim=24,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=latent_channels,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    StableDiffusion3Pipeline(
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    ).save_pretrained(folder)
    return folder
