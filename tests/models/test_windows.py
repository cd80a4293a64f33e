"""Windows of one length in one call are windows one by one."""

import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention

from deepgen.models.windows import WindowAttention
from deepgen.pipeline import DeepGenPipeline


def test_window_attention_gives_the_features_of_windows_one_by_one(pipe: DeepGenPipeline) -> None:
    torch.manual_seed(0)
    sizes = [(128, 256), (96, 64), (160, 288)]  # whole windows, one small one, all four lengths
    images = [torch.rand(3, *size) * 2 - 1 for size in sizes]
    attentions = [block.attn for block in pipe.vlm.visual.blocks]
    assert all(type(attention) is WindowAttention for attention in attentions)
    together = [*pipe.vlm.image_features(images), *pipe.vlm.image_features(images[:1])]
    try:
        for attention in attentions:
            attention.__class__ = Qwen2_5_VLVisionAttention
        one_by_one = [*pipe.vlm.image_features(images), *pipe.vlm.image_features(images[:1])]
    finally:
        for attention in attentions:
            attention.__class__ = WindowAttention
    for ours, theirs in zip(together, one_by_one, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
