"""GenEval (Ghosh et al., 2023): 553 prompts about objects, counts, colors and places, checked by a
detector.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from deepgen.eval.benchmark import Benchmark, DataFile, Item, ItemScore, Settings, count_problem
from deepgen.eval.scorers import Scorers
from deepgen.eval.scoring import Protocol, geneval
from deepgen.eval.text_files import read_jsonl

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
        items = [
            Item(id=f"{index:05d}", category=row["tag"], prompt=row["prompt"].strip(), metadata=row)
            for index, row in enumerate(rows)
        ]
        found = Counter(item.category for item in items)
        problems = [
            problem
            for tag, expected in _COUNTS.items()
            for problem in count_problem(self.label, f"prompts of {tag}", expected, found[tag])
        ]
        return items, problems

    def picture_path(self, item: Item, sample: int) -> str:
        """images/00000/samples/0000.png."""
        return f"images/{item.id}/samples/{sample:04d}.png"

    def finish(self, folder: Path, item: Item, pictures: Sequence[Path]) -> None:
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
                name: geneval.keep(boxes, is_counting=item.category == "counting")
                for name, boxes in found.items()
            }
            colors = {
                name: scorers.detector.colors(image, name, kept[name][: max(count, 1)])
                for name, count in colored.items()
                if kept.get(name)
            }
            boxes = {name: [found[name][index] for index in indices] for name, indices in kept.items()}
            verdict = geneval.verdict(item.metadata, boxes, colors)
            rows.append({"tag": item.category, "prompt": item.id, "correct": verdict["correct"]})
            seen = ", ".join(f"{len(each)} {name}" for name, each in boxes.items() if each) or "nothing"
            words.append(f"{verdict['reason'] or 'right'} (seen: {seen})")
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
        return geneval.aggregate([row for score in scores for row in score.rows])


benchmark = GenEval
