"""The real eyes: a tiny random Mask2Former and CLIP run through GenEval's path, RapidOCR reads clean text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import (
    CLIPConfig,
    CLIPModel,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    SwinConfig,
)

from deepgen.eval.benchmark import Item
from deepgen.eval.benchmarks import load_benchmark
from deepgen.eval.detection import COLORS, ObjectFinder
from deepgen.eval.scorers import ScorerConfig, Scorers, make_scorers
from deepgen.eval.scoring import cvtg2k
from deepgen.shapes.vocabulary import MAX_TOKENS, write_tokenizer


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": MAX_TOKENS, "max_position_embeddings": 12, "eos_token_id": 1}
    vision = {**small, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(path)
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def mask2former(tmp_path_factory):
    pytest.importorskip(
        "scipy", reason="transformers' Mask2Former asks for scipy: pip install 'deepgen[eval]'"
    )
    path = tmp_path_factory.mktemp("mask2former")
    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=32,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=swin,
        hidden_dim=32,
        feature_size=32,
        mask_feature_size=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        encoder_feedforward_dim=16,
        num_queries=6,
        id2label={0: "person", 1: "mouse", 2: "cat"},
    )
    Mask2FormerForUniversalSegmentation(config).save_pretrained(path)
    return path


def test_the_real_path_of_geneval_runs_on_tiny_random_networks(mask2former, clip):
    config = ScorerConfig(detector=str(mask2former), clip=str(clip), device="cpu")
    finder = make_scorers(config, ["detector"]).detector
    assert isinstance(finder, ObjectFinder)
    assert finder.names == {0: "person", 1: "computer mouse", 2: "cat"}
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    found = finder(image)
    assert found, "six queries of a random network find something"
    for name, boxes in found.items():
        assert [box[4] for box in boxes] == sorted((box[4] for box in boxes), reverse=True)
        assert all(0 <= box[0] < box[2] <= 64 and 0 <= box[1] < box[3] <= 48 for box in boxes)
        colors = finder.colors(image, name, range(len(boxes)))
        assert len(colors) == len(boxes)
        assert set(colors) <= set(COLORS)
        finder(Image.new("RGB", (8, 8)))  # another picture in between changes nothing
        assert finder.colors(image, name, range(len(boxes))) == colors
    row = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}], "prompt": "a red cat"}
    item = Item(id="00000", category="colors", prompt="a red cat", metadata=row)
    score = load_benchmark("geneval").score(item, [image], Scorers(detector=finder))
    assert score.value in (0, 1)
    assert "seen:" in score.words


def test_rapidocr_reads_clean_words_with_an_accuracy_of_95_percent():
    pytest.importorskip("rapidocr", reason="the reader is in the eval extra: pip install 'deepgen[eval]'")
    reader = make_scorers(ScorerConfig(), ["reader"]).reader
    lines = ("OPEN DAILY", "FRESH BREAD", "WELCOME HOME", "STATION NORTH", "SUMMER SALE", "COFFEE TO GO")
    image = Image.new("RGB", (480, 400), "white")
    for index, line in enumerate(lines):
        ImageDraw.Draw(image).text((20, 12 + 64 * index), line, fill="black", font_size=44)
    targets = cvtg2k.target_words(" and ".join(f"'{line}'" for line in lines))
    rows = [{"area": 5, **cvtg2k.match(targets, cvtg2k.read_words(reader(image)))}]
    assert cvtg2k.aggregate(rows)["word_accuracy"] >= 0.95
