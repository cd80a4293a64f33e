"""GenEval as a reward (Ghosh et al., 2023): objects, counts, colors and places, found by a detector.

Rows carry GenEval's own fields, `include` and perhaps `exclude` and `tag`. Counting is done with a stricter
threshold than the rest, as GenEval does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

from deepgen.rewards.clip import ClipTower, TowerOptions
from deepgen.rewards.detector import Detector
from deepgen.rewards.objects import Detection, score_objects
from deepgen.rewards.reward import Candidate, EachAlone, Verdict


@dataclass(frozen=True, kw_only=True)
class GenEvalOptions(TowerOptions):
    """Which CLIP for colors (`model`) and which detector; "exact" is GenEval's verdict instead of credit."""

    model: str = "openai/clip-vit-large-patch14"
    detector: str = "facebook/mask2former-swin-small-coco-instance"
    threshold: float = 0.3
    counting_threshold: float = 0.9
    credit: Literal["partial", "exact"] = "partial"


class FindsObjects(Protocol):
    """What a detector does."""

    def __call__(self, image: Image.Image, threshold: float, colored: set[str]) -> list[Detection]:
        """Objects at least that sure, with colors for some classes."""
        ...


class GenEval(EachAlone):
    """Share of the objects, counts, colors and places asked for that a detector finds."""

    needs = ("include",)

    def __init__(self, options: GenEvalOptions, detector: FindsObjects | None = None) -> None:
        self.options = o = options
        self._detector = detector or Detector(o.detector, o.device, ClipTower(o))
        thresholds = f"{o.threshold:g}-{o.counting_threshold:g}"
        self.version = f"geneval-1-{o.credit}-{thresholds}-{o.detector}-{o.model}"

    def judge(self, candidate: Candidate) -> Verdict:
        """Detects once; the words are what was found."""
        score_objects(candidate.metadata, [])  # a row that is none is refused before anything is detected
        is_counting = candidate.metadata.get("tag") == "counting"
        threshold = self.options.counting_threshold if is_counting else self.options.threshold
        colored = {entry["class"] for entry in candidate.metadata["include"] if "color" in entry}
        score = score_objects(candidate.metadata, self._detector(candidate.image, threshold, colored))
        value = score.credit if self.options.credit == "partial" else float(score.is_correct)
        return Verdict(value, f"{'correct' if score.is_correct else 'wrong'}: {score.words}")


options, reward = GenEvalOptions, GenEval
