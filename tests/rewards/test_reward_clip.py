"""CLIP rewards on a tiny random CLIP: their formulas, and what they do with lengths, sizes and batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from deepgen.rewards.clip import prepare
from deepgen.rewards.reward import Candidate, precision_of
from deepgen.rewards.scorers import make_reward
from deepgen.shapes.vocabulary import MAX_TOKENS, write_tokenizer

PROMPTS = ("red circle", "blue star on the left", "green " * 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": MAX_TOKENS, "max_position_embeddings": 12, "eos_token_id": 1}
    vision = {**small, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(path)
    write_tokenizer(path)
    return path


def candidates() -> list[Candidate]:
    rng = np.random.default_rng(0)
    sizes = ((32, 32), (48, 70), (20, 90))
    images = [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]
    return [Candidate(image=p, prompt=words) for p, words in zip(images, PROMPTS, strict=True)]


def cosines(folder: Path) -> list[float]:
    """As transformers itself computes them, one by one."""
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    values = []
    for one in candidates():
        tokens = tokenizer(one.prompt, truncation=True, max_length=12, return_tensors="pt")
        pixels = torch.from_numpy(prepare(one.image, 32))[None]
        with torch.no_grad():
            logits = model(input_ids=tokens["input_ids"], pixel_values=pixels).logits_per_image
        values.append(float(logits / model.logit_scale.detach().exp()))
    return values


@pytest.mark.parametrize(
    ("name", "factor"), [("clip_sim", 1.0), ("pickscore", float(np.exp(2.6592)) / 26), ("hps", 2.0)]
)
def test_a_clip_reward_is_its_multiple_of_the_cosine(folder: Path, name: str, factor: float) -> None:
    for batch_size in (1, 2):
        reward = make_reward(
            name, model=str(folder), tokenizer=str(folder), device="cpu", batch_size=batch_size
        )
        scores = [verdict.score for verdict in reward(candidates())]
        np.testing.assert_allclose(scores, factor * np.array(cosines(folder)), rtol=1e-3, atol=1e-5)
        assert len(set(scores)) == 3
        assert reward.version.endswith("-float32")
        assert precision_of(reward) == pytest.approx(factor * 2**-23, rel=1e-3)  # of float32


def edits() -> list[Candidate]:
    """The first picture turned into each of three, one of them itself."""
    images = [one.image for one in candidates()]
    captions = {"caption_before": "red circle", "caption_after": "blue star"}
    return [Candidate(image=image, prompt="", references=(images[0],), metadata=captions) for image in images]


def test_the_direction_of_an_edit_is_that_of_its_captions(folder: Path) -> None:
    reward = make_reward("clip_direction", model=str(folder), device="cpu", batch_size=2)
    scores = [verdict.score for verdict in reward(edits())]
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    pixels = torch.from_numpy(np.stack([prepare(one.image, 32) for one in edits()]))
    tokens = tokenizer(["red circle", "blue star"], padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels
        )
    seen, said = out.image_embeds - out.image_embeds[0], out.text_embeds[1] - out.text_embeds[0]
    expected = torch.nn.functional.cosine_similarity(seen, said[None])
    assert scores[0] == 0, "the source itself"
    np.testing.assert_allclose(scores[1:], expected[1:], rtol=1e-3, atol=1e-4)


def test_captions_that_say_the_same_give_no_direction(folder: Path) -> None:
    reward = make_reward("clip_direction", model=str(folder), device="cpu")
    same = replace(edits()[1], metadata={"caption_before": "red circle", "caption_after": "red circle"})
    (verdict,) = reward([same])
    assert verdict.score is None
    assert "say the same" in verdict.reason


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_aesthetic_rating_is_the_heads_linear_map(folder: Path, tmp_path: Path, suffix: str) -> None:
    head = {
        "layers.0.weight": torch.randn(4, 8),
        "layers.0.bias": torch.randn(4),
        "layers.10.weight": torch.randn(1, 4),
        "layers.10.bias": torch.randn(1),
    }
    path = tmp_path / f"head{suffix}"
    save_file(head, path) if suffix == ".safetensors" else torch.save(head, path)
    reward = make_reward("aesthetic", model=str(folder), head_path=str(path), device="cpu")
    scores = [verdict.score for verdict in reward(candidates())]
    model = CLIPModel.from_pretrained(folder).eval()
    pixels = torch.from_numpy(np.stack([prepare(one.image, 32) for one in candidates()]))
    with torch.no_grad():
        vectors = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    vectors = vectors / vectors.norm(dim=-1, keepdim=True)
    hidden = vectors @ head["layers.0.weight"].T + head["layers.0.bias"]
    expected = hidden @ head["layers.10.weight"].T + head["layers.10.bias"]
    np.testing.assert_allclose(scores, expected[:, 0], rtol=1e-4, atol=1e-5)


def test_a_file_that_is_no_aesthetic_head_is_refused(folder: Path, tmp_path: Path) -> None:
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    save_file(
        {"layers.0.weight": torch.zeros(2, 8), "layers.0.bias": torch.zeros(2)}, tmp_path / "two.safetensors"
    )
    for name, words in (("other", "no aesthetic predictor"), ("two", "predicts 2 numbers")):
        with pytest.raises(ValueError, match=words):
            make_reward("aesthetic", model=str(folder), head_path=str(tmp_path / f"{name}.safetensors"))


def test_pictures_are_prepared_as_clip_does_it() -> None:
    flat = prepare(Image.new("RGB", (50, 80), (255, 128, 0)), 32)
    assert flat.shape == (3, 32, 32)
    assert flat.dtype == np.float32
    expected = (np.array([1, 128 / 255, 0]) - [0.4815, 0.4578, 0.4082]) / [0.2686, 0.2613, 0.2758]
    np.testing.assert_allclose(flat[:, 5, 5], expected, rtol=1e-3)
    halves = Image.new("RGB", (96, 32), "black")
    halves.paste((255, 255, 255), (32, 0, 64, 32))
    assert prepare(halves, 32)[0].min() > 1.5, "the centre is cropped"
