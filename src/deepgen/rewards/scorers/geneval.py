"""GenEval as a reward (Ghosh et al., 2023): objects, counts, colors and places, found by a detector.

Rows carry GenEval's own fields, `include` and perhaps `exclude` and `tag`. Counting is done with a stricter
threshold than the rest, as GenEval does it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from deepgen.moved import renamed
from deepgen.rewards.clip import TowerOptions
from deepgen.rewards.detector import make_detector
from deepgen.rewards.interfaces import ObjectDetector
from deepgen.rewards.objects import Detection, score_objects
from deepgen.rewards.reward import Candidate, EachAlone, RewardResult

_MOST_OF_A_CLASS = 16


@dataclass(frozen=True, kw_only=True)
class GenEvalRewardOptions(TowerOptions):
    """Which CLIP for colors (`model`), and which detector: a Mask2Former, or the address of a service.

    `credit` "exact" gives GenEval's verdict, 0 or 1, instead of partial credit.
    """

    model: str = "openai/clip-vit-large-patch14"
    detector: str = "facebook/mask2former-swin-small-coco-instance"
    threshold: float = 0.3
    counting_threshold: float = 0.9
    credit: Literal["partial", "exact"] = "partial"


class GenEvalReward(EachAlone):
    """Share of the objects, counts, colors and places asked for that a detector finds."""

    needs = ("include",)

    def __init__(self, options: GenEvalRewardOptions, detector: ObjectDetector | None = None) -> None:
        self.options = o = options
        self._detector = detector or make_detector(o.detector, o)
        thresholds = f"{o.threshold:g}-{o.counting_threshold:g}"
        # 2: GenEval's own names of classes, and colors of the object alone, as the benchmark has them.
        self.version = f"geneval-2-{o.credit}-{thresholds}-{o.detector}-{o.model}"

    def judge(self, candidate: Candidate) -> RewardResult:
        """Detects once; the words are what was found."""
        score_objects(candidate.metadata, [])  # a row that is none is refused before anything is detected
        is_counting = candidate.metadata.get("tag") == "counting"
        threshold = self.options.counting_threshold if is_counting else self.options.threshold
        colored = {entry["class"] for entry in candidate.metadata["include"] if "color" in entry}
        score = score_objects(candidate.metadata, self._detect(candidate.image, threshold, colored))
        value = score.credit if self.options.credit == "partial" else float(score.is_correct)
        return RewardResult(value, f"{'correct' if score.is_correct else 'wrong'}: {score.words}")

    def _detect(self, image: Image.Image, threshold: float, colored: Collection[str]) -> list[Detection]:
        """Objects at least as sure as the threshold, the surest first; those of the classes in `colored` with
        their color.
        """
        detections = []
        for name, boxes in self._detector(image).items():
            kept = [index for index, box in enumerate(boxes) if box[4] >= threshold][:_MOST_OF_A_CLASS]
            colors = self._detector.colors(image, name, kept) if name in colored else [None] * len(kept)
            detections += [
                Detection(name=name, confidence=boxes[index][4], box=boxes[index][:4], color=color)
                for index, color in zip(kept, colors, strict=True)
            ]
        return sorted(detections, key=lambda detection: -detection.confidence)


options, reward = GenEvalRewardOptions, GenEvalReward


__getattr__ = renamed(
    __name__,
    {
        "GenEval": "deepgen.rewards.scorers.geneval.GenEvalReward",
        "GenEvalOptions": "deepgen.rewards.scorers.geneval.GenEvalRewardOptions",
        "FindsObjects": "deepgen.rewards.interfaces.ObjectDetector",
    },
)
