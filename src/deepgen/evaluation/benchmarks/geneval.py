"""GenEval (Ghosh et al., 2023): 553 prompts about objects, counts, colors and places, checked by a
detector.

Unlike the reward of the same name this is the benchmark's own rule to the letter: as many boxes as were
asked for are looked at, and the direction is the slackened offset over the length of the whole one.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.evaluation.benchmark import (
    Benchmark,
    DataFile,
    Item,
    ItemScore,
    Protocol,
    Settings,
    count_problem,
    mean,
)
from deepgen.evaluation.data_rows import items_of, text_of
from deepgen.evaluation.scorers import Scorers
from deepgen.evaluation.text_files import read_jsonl

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
THRESHOLD, COUNTING_THRESHOLD, MOST_OF_A_CLASS = 0.3, 0.9, 16
_SLACK, _LEVEL = 0.1, 1e-3
Box = Sequence[float]  # left, top, right, bottom, and perhaps confidence
_COUNTS = {
    "single_object": 80,
    "two_object": 99,
    "counting": 80,
    "colors": 94,
    "position": 100,
    "color_attr": 100,
}


@dataclass(frozen=True, kw_only=True)
class GenEval(Benchmark):
    """Four pictures of each prompt; a picture is right or wrong."""

    name = "geneval"
    needs = ("detector",)
    settings = Settings(num_samples=4)

    def files(self) -> tuple[DataFile, ...]:
        """The metadata file."""
        return (
            DataFile(
                path="evaluation_metadata.jsonl",
                origin="https://github.com/djghosh13/geneval, prompts/ (revision af4902f)",
                sha256="5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13",
                num_rows=553,
            ),
        )

    def read_items(self, data_dir: Path) -> tuple[list[Item], list[str]]:
        """Items are named by their line, from 00000."""
        rows = read_jsonl(self.locate(data_dir, "evaluation_metadata.jsonl"))
        named = [(f"{index:05d}", row) for index, row in enumerate(rows)]
        items, unreadable = items_of(self.label, named, _item)
        found = Counter(item.category for item in items)
        problems = [
            problem
            for tag, expected in _COUNTS.items()
            for problem in count_problem(self.label, f"prompts of {tag}", expected, found[tag])
        ]
        return items, [*unreadable, *problems]

    def image_path(self, item: Item, sample: int) -> str:
        """images/00000/samples/0000.png."""
        return f"images/{item.id}/samples/{sample:04d}.png"

    def finish(self, folder: Path, item: Item, paths: Sequence[Path]) -> None:
        """The row beside its pictures."""
        (folder / "images" / item.id / "metadata.jsonl").write_text(json.dumps(item.metadata) + "\n")

    def score(self, item: Item, images: Sequence[Image.Image], scorers: Scorers) -> ItemScore:
        """Detects once a picture; only the boxes that count are asked for their color."""
        assert scorers.detector is not None
        colored = {entry["class"]: entry["count"] for entry in item.metadata["include"] if "color" in entry}
        rows, words = [], []
        for image in images:
            found = scorers.detector(image)
            kept = {
                name: keep(boxes, is_counting=item.category == "counting") for name, boxes in found.items()
            }
            colors = {
                name: scorers.detector.colors(image, name, kept[name][: max(count, 1)])
                for name, count in colored.items()
                if kept.get(name)
            }
            boxes = {name: [found[name][index] for index in indices] for name, indices in kept.items()}
            judged = verdict(item.metadata, boxes, colors)
            rows.append({"tag": item.category, "prompt": item.id, "correct": judged["correct"]})
            seen = ", ".join(f"{len(each)} {name}" for name, each in boxes.items() if each) or "nothing"
            words.append(f"{judged['reason'] or 'right'} (seen: {seen})")
        return ItemScore(
            item=item.id,
            category=item.category,
            value=sum(row["correct"] for row in rows) / len(rows),
            rows=tuple(rows),
            words="\n".join(words),
            num_expected=len(rows),
            num_scored=len(rows),
        )

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """In [0, 1]; the mean of the six tasks, as both protocols have it."""
        return aggregate([row for score in scores for row in score.rows])


def _item(name: str, row: Mapping[str, Any]) -> Item:
    """A line of the file, whose objects are whole: a null would be a rule that nothing fulfils."""
    for entry in [*row["include"], *row.get("exclude", ())]:
        text_of(entry, "class")
        int(entry["count"])
        if "color" in entry:
            text_of(entry, "color")
        if "position" in entry:
            _, index = entry["position"]
            row["include"][index]
    return Item(id=name, category=text_of(row, "tag"), prompt=text_of(row, "prompt").strip(), metadata=row)


def keep(
    boxes: Sequence[Box],
    *,
    is_counting: bool = False,
    threshold: float | None = None,
    max_overlap: float = 1.0,
) -> list[int]:
    """Indices of the boxes of one class that count, the surest first.

    Args:
        boxes: left, top, right, bottom in pixels and confidence in [0, 1].
        is_counting: counting is done with a stricter threshold.
        threshold: instead of GenEval's own; a box must be above it.
        max_overlap: a box is dropped unless its IoU with every better one is below; 1 drops none.
    """
    if threshold is None:
        threshold = COUNTING_THRESHOLD if is_counting else THRESHOLD
    order = sorted((i for i, box in enumerate(boxes) if box[4] > threshold), key=lambda i: -boxes[i][4])
    order = order[:MOST_OF_A_CLASS]
    if max_overlap >= 1:
        return order
    kept: list[int] = []
    for index in order:
        if all(iou(boxes[index], boxes[other]) < max_overlap for other in kept):
            kept.append(index)
    return kept


def iou(first: Box, second: Box) -> float:
    """Intersection over union in [0, 1]; the last pixel of a box belongs to it, so a side is x2 - x1 + 1."""

    def area(left: float, top: float, right: float, bottom: float) -> float:
        return max(right - left + 1, 0) * max(bottom - top + 1, 0)

    both = area(
        max(first[0], second[0]), max(first[1], second[1]), min(first[2], second[2]), min(first[3], second[3])
    )
    total = area(*first[:4]) + area(*second[:4]) - both
    return both / total if total else 0.0


def relations(first: Box, second: Box) -> set[str]:
    """Where the first box lies from the second: up to two of left of, right of, above, below."""
    offset, slackened = [], []
    for axis in (0, 1):
        away = (first[axis] + first[axis + 2] - second[axis] - second[axis + 2]) / 2
        sizes = abs(first[axis + 2] - first[axis]) + abs(second[axis + 2] - second[axis])
        offset.append(away)
        slackened.append(math.copysign(max(abs(away) - _SLACK * sizes, 0.0), away))
    if all(abs(value) < _LEVEL for value in slackened):
        return set()
    x, y = (value / math.hypot(*offset) for value in slackened)
    holds = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, is_so in holds.items() if is_so}


def verdict(
    metadata: Mapping[str, Any],
    boxes: Mapping[str, Sequence[Box]],
    colors: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Whether a picture is right, and what is wrong with it.

    Args:
        metadata: the row: `include` and perhaps `exclude`.
        boxes: by class, those `keep` leaves, the surest first.
        colors: by class, the color of each of its boxes; needed for the classes whose color is asked for.

    Returns:
        `correct` and `reason`, the latter empty for a right picture.
    """
    wrong: list[str] = []
    groups: list[Sequence[Box] | None] = []
    for entry in metadata["include"]:
        name, wanted = entry["class"], entry["count"]
        found = list(boxes.get(name, ()))[:wanted]
        is_matched = len(found) == wanted
        if not is_matched:
            wrong.append(f"{name}: {len(found)} of {wanted}")
        else:
            if "color" in entry:
                seen = list((colors or {})[name])[:wanted]
                is_matched = seen.count(entry["color"]) >= wanted
                if not is_matched:
                    wrong.append(f"{name}: {', '.join(seen)} instead of {entry['color']}")
            if is_matched and "position" in entry:
                relation, index = entry["position"]
                target = groups[index]
                is_matched = target is not None and all(
                    relation in relations(one, other) for one in found for other in target
                )
                if not is_matched:
                    wrong.append(f"{name}: not {relation} {metadata['include'][index]['class']}")
        groups.append(found if is_matched else None)
    for entry in metadata.get("exclude", ()):
        number = len(boxes.get(entry["class"], ()))
        if number >= entry["count"]:
            wrong.append(f"{entry['class']}: {number}, fewer than {entry['count']} expected")
    return {"correct": not wrong, "reason": "; ".join(wrong)}


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Scores in [0, 1] of pictures given as `tag`, `prompt` (any key of the prompt) and `correct`.

    `overall` is the plain mean of the tasks that occur; `images` and `prompts` are the shares of right
    pictures and of prompts with at least one.
    """
    tags = [tag for tag in TASKS if any(row["tag"] == tag for row in rows)]
    table = {tag: mean([float(row["correct"]) for row in rows if row["tag"] == tag]) for tag in tags}
    prompts: dict[str, bool] = {}
    for row in rows:
        prompts[str(row["prompt"])] = prompts.get(str(row["prompt"]), False) or bool(row["correct"])
    return {
        "overall": mean(list(table.values())),
        **table,
        "images": mean([float(row["correct"]) for row in rows]),
        "prompts": mean([float(is_right) for is_right in prompts.values()]),
    }


benchmark = GenEval
