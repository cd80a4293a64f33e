"""GenEval as a reward: partial credit by hand, the official verdict, and reading a detector's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deepgen.rewards.detector import COLORS, Mask2FormerDetector, box_of, instances, prepare
from deepgen.rewards.interfaces import Box
from deepgen.rewards.objects import Detection, relations, score_objects
from deepgen.rewards.reward import Candidate, CannotJudge
from deepgen.rewards.scorers.geneval import GenEvalReward, GenEvalRewardOptions


def item(name: str, x: float = 50, y: float = 50, color: str | None = None) -> Detection:
    return Detection(name=name, confidence=0.9, box=(x - 5, y - 5, x + 5, y + 5), color=color)


def asks(*include: dict[str, Any], exclude: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"include": list(include), "exclude": exclude or []}


DOG, TWO_CATS = {"class": "dog", "count": 1}, {"class": "cat", "count": 2}
RED_CAR = {"class": "car", "count": 1, "color": "red"}
LEFT = {"class": "cat", "count": 1, "position": ["left of", 0]}


@pytest.mark.parametrize(
    ("row", "found", "credit", "is_correct"),
    [
        (asks(DOG), [item("dog")], 1, True),
        (asks(DOG), [], 0, False),
        (asks(TWO_CATS), [item("cat")], 0.5, False),
        (asks(TWO_CATS), [item("cat")] * 3, 0.5, True),  # the official rule is "at least"
        (asks(TWO_CATS, exclude=[{"class": "cat", "count": 3}]), [item("cat")] * 3, 0.5, False),
        (asks(DOG, TWO_CATS), [item("cat")] * 2, 0.5, False),
        (asks(RED_CAR), [item("car", color="red")], 1, True),
        (asks(RED_CAR), [item("car", color="blue")], 0.5, False),
        (asks(RED_CAR), [item("car", color="red"), item("car", color="blue")], 0, True),
        (asks(DOG, LEFT), [item("dog", 80), item("cat", 20)], 1, True),
        (asks(DOG, LEFT), [item("dog", 20), item("cat", 80)], 2 / 3, False),
        (asks(DOG, LEFT), [item("cat", 20)], 1 / 3, False),
        (asks(DOG, exclude=[{"class": "cat", "count": 1}]), [item("dog"), item("cat")], 0.5, False),
    ],
)
def test_credit_is_the_mean_of_what_was_asked_for(row, found, credit: float, is_correct: bool) -> None:
    score = score_objects(row, found)
    assert score.credit == pytest.approx(credit)
    assert score.is_correct is is_correct


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"include": ["dog"]},
        asks({"class": "dog", "count": 0}),
        asks(DOG, {"class": "cat", "position": ["near", 0]}),
        asks({"class": "cat", "position": ["above", 0]}),
    ],
)
def test_a_row_that_is_none_gets_no_score(row: dict[str, Any]) -> None:
    with pytest.raises(CannotJudge):
        score_objects(row, [])


def test_relations_are_those_of_the_centres_beyond_some_slack() -> None:
    assert relations(item("a", 10, 50), item("b", 90, 50)) == {"left of"}
    assert relations(item("a", 90, 90), item("b", 10, 10)) == {"right of", "below"}
    assert relations(item("a", 50, 10), item("b", 52, 90)) == {"above"}
    assert relations(item("a", 50, 50), item("b", 51, 51)) == set()


def test_the_reward_counts_with_the_stricter_threshold_and_asks_for_colors_where_needed() -> None:
    asked = []

    class Detector:
        version = "fixed-1"

        def __call__(self, image: Image.Image) -> dict[str, list[Box]]:
            cats: list[Box] = [(40, 0, 49, 9, 0.95), (0, 0, 9, 9, 0.5)]
            return {"cat": cats, "car": [(0, 0, 9, 9, 0.8), (0, 0, 9, 9, 0.2)]}

        def colors(self, image: Image.Image, name: str, indices: Sequence[int]) -> list[str]:
            asked.append((name, list(indices)))
            return ["red" for _ in indices]

    rows = [asks(RED_CAR), {**asks(TWO_CATS), "tag": "counting"}, {"include": [7]}]
    candidates = [Candidate(image=Image.new("RGB", (8, 8)), prompt="", metadata=row) for row in rows]
    verdicts = GenEvalReward(GenEvalRewardOptions(), Detector())(candidates)
    assert [verdict.score for verdict in verdicts] == [1, 0.5, None]
    assert asked == [("car", [0])], "only boxes above the threshold of the one class whose color is asked for"
    assert verdicts[0].reason == "correct: cat, red car, cat"
    assert verdicts[1].reason == "wrong: cat", "counting wants more confidence"
    (exact,) = GenEvalReward(GenEvalRewardOptions(credit="exact"), Detector())(candidates[1:2])
    assert exact.score == 0


def test_queries_become_objects_with_class_times_mask_confidence() -> None:
    classes = torch.tensor([[4.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0], [0, 9.0, 0]])  # two classes and "nothing"
    masks = torch.full((4, 4, 8), -5.0)
    masks[0, 1:3, 2:4] = 2.0
    masks[1, 0, 0] = 6.0
    masks[2] = 5.0
    found = instances(classes, masks)
    assert [label for label, _, _ in found] == [1, 0]
    _, confidence, mask = found[1]
    expected = torch.softmax(classes[0], -1)[0] * torch.sigmoid(torch.tensor(2.0))
    assert confidence == pytest.approx(float(expected))
    assert box_of(mask, (80, 80)) == (20, 20, 40, 60)


def test_a_picture_is_scaled_to_its_short_side_unless_it_is_too_long() -> None:
    assert prepare(Image.new("RGB", (100, 100))).shape == (3, 800, 800)
    assert prepare(Image.new("RGB", (400, 100))).shape == (3, 333, 1333)
    assert prepare(Image.new("RGB", (100, 100))).dtype == np.float32


def test_the_detector_runs_a_mask2former_and_names_colors(tmp_path) -> None:
    pytest.importorskip("scipy", reason="transformers' Mask2Former wants scipy; it is in the rl extra")
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    swin = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    widths = dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), 32)
    config = Mask2FormerConfig(
        backbone_config=swin,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=20,
        num_labels=3,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        **widths,
    )
    torch.manual_seed(0)
    Mask2FormerForUniversalSegmentation(config).save_pretrained(tmp_path)

    class Tower:
        version = "tower"

        def embed_texts(self, texts: list[str]) -> torch.Tensor:
            return torch.eye(10)[[next(i for i, c in enumerate(COLORS) if c in text) for text in texts]]

        def embed_images(self, images: list[Image.Image]) -> torch.Tensor:
            return torch.eye(10)[3:4].expand(len(images), 10)

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
    detector = Mask2FormerDetector(str(tmp_path), "cpu", Tower())  # pyright: ignore
    found = detector(image)
    assert found
    assert set(found) <= set(detector.names.values())
    for name, boxes in found.items():
        assert detector.colors(image, name, range(len(boxes))) == ["green"] * len(boxes)
        assert [box[4] for box in boxes] == sorted((box[4] for box in boxes), reverse=True)
        for left, top, right, bottom, _ in boxes:
            assert 0 <= left < right <= 60
            assert 0 <= top < bottom <= 40
    reward = GenEvalReward(GenEvalRewardOptions(), detector)
    row = asks({"class": "LABEL_0", "count": 1, "color": "green"})
    (result,) = reward([Candidate(image=image, prompt="", metadata=row)])
    assert result.score is not None
