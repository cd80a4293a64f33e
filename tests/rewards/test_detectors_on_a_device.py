"""Models that judge, on a pretended CUDA device: what they say is what they say on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepgen.rewards.clip import ClipTower, TowerOptions
from deepgen.rewards.detector import Mask2FormerDetector
from pretended_device import PretendedDevice

pytestmark = pytest.mark.slow

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))


class _Tower:
    version = "tower"

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        return torch.eye(10)[: len(texts)]

    def embed_images(self, images: list[Image.Image]) -> torch.Tensor:
        return torch.eye(10)[3:4].expand(len(images), 10)


def test_the_detector_finds_what_it_finds_on_the_cpu(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="transformers' Mask2Former wants scipy; it is in the rl extra")
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    stages = ["stage1", "stage2", "stage3", "stage4"]
    swin = SwinConfig(
        image_size=64, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=2, out_features=stages
    )
    config = Mask2FormerConfig(
        backbone_config=swin,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=20,
        num_labels=3,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
    )
    torch.manual_seed(0)
    Mask2FormerForUniversalSegmentation(config).save_pretrained(tmp_path)
    expected = Mask2FormerDetector(str(tmp_path), "cpu", _Tower())(IMAGE)  # pyright: ignore
    assert expected
    with PretendedDevice() as device:
        detector = Mask2FormerDetector(str(tmp_path), "auto", _Tower())  # pyright: ignore
        assert detector._model.device.type == "cuda"
        device.forget()
        found = detector(IMAGE)
        assert device.count() >= 1  # it ran there
        name = next(iter(found))
        assert len(detector.colors(IMAGE, name, [0])) == 1
    assert found.keys() == expected.keys()
    for name, boxes in found.items():
        np.testing.assert_allclose(np.array(boxes), np.array(expected[name]), atol=1e-3)


def test_clip_embeds_what_it_embeds_on_the_cpu(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=CLIPTextConfig(**sizes, vocab_size=64).to_dict(),
        vision_config=CLIPVisionConfig(**sizes, image_size=32, patch_size=8).to_dict(),
        projection_dim=16,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(tmp_path)
    expected = ClipTower(TowerOptions(model=str(tmp_path), device="cpu"), has_text=False)
    with PretendedDevice():
        there = ClipTower(TowerOptions(model=str(tmp_path), device="auto"), has_text=False)
        assert there._model.device.type == "cuda"
        found = there.embed_images([IMAGE, IMAGE.resize((50, 50))])
        assert there.logit_scale == pytest.approx(expected.logit_scale)
    torch.testing.assert_close(
        found, expected.embed_images([IMAGE, IMAGE.resize((50, 50))]), atol=1e-4, rtol=1e-4
    )
