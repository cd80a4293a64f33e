"""UniGenBench: 600 prompts with test points in 27 dimensions, in English and Chinese, short and long."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.evaluation.benchmark import DataFile, Item, ItemScore, Protocol, Settings, count_problem, mean
from deepgen.evaluation.data_rows import items_of, name_of, text_of
from deepgen.evaluation.judge_benchmark import JudgeBenchmark, Question
from deepgen.evaluation.response_schema import ResponseSchema, bits
from deepgen.evaluation.text_files import read_csv

_HASHES = {
    "en": "f82e8ce854985ef963378eaaf8ce12f2e3a57dd6f53e1aea84a61fbeadfe4459",
    "en_long": "5d2c3d642cc4923504b662ad15b425c2d161a137884701881e00c2691a697253",
    "zh": "7ff2d2131e68e6182f43a28ecf03d070f7735788f3c5420db3f83141492e8cb3",
    "zh_long": "6e281a5781878584db932a3bfd16dc51afb195566eb7a30c17fb9c09fd3b1776",
}
_POINTS = {"en": 1813, "zh": 1813, "en_long": 3920, "zh_long": 3920}
_KEYS = {
    "en": ("Testpoints", "Testpoint Description", "Primary Categories"),
    "zh": ("考点", "考点对应描述", "一级垂类"),
}
_RUBRIC = """\
A picture was asked for with this prompt: {prompt}
Check each of these test points, in their order, by what can be seen in the picture:
{points}
Reply with two tags and nothing else. In the first a Python list of one short sentence for each point, in the
second a Python list of 1 (met) or 0 (not met) for each point:
<analysis>["...", "..."]</analysis>
<score>[1, 0]</score>"""


@dataclass(frozen=True, kw_only=True)
class UniGenBench(JudgeBenchmark):
    """Four pictures of each prompt, one call a picture."""

    name = "unigenbench"
    variants = ("en", "en_long", "zh", "zh_long")
    settings = Settings(num_samples=4)
    rubrics = {"testpoints": _RUBRIC}
    attempts = 11
    notes = {
        "official": "the row of en_long with broken JSON (509) is left out",
        "fixed": "that row is repaired and counts",
    }

    @property
    def _language(self) -> str:
        return self.variant.split("_")[0]

    def files(self) -> tuple[DataFile, ...]:
        """One table."""
        return (
            DataFile(
                path=f"test_prompts_{self.variant}.csv",
                origin="https://github.com/CodeGoat24/UniGenBench, data/ (revision 49d0bce)",
                sha256=_HASHES[self.variant],
                num_rows=600,
                aliases=(f"data/test_prompts_{self.variant}.csv",),
            ),
        )

    def read_items(self, data_dir: Path) -> tuple[list[Item], list[str]]:
        """Columns with and without the language are read."""
        (file,) = self.files()
        rows = read_csv(self.locate(data_dir, file.path, *file.aliases))
        points_key, descriptions_key, category_key = _KEYS[self._language]
        problems = count_problem(self.label, "prompts", 600, len(rows))

        def item(name: str, row: Mapping[str, Any]) -> Item:
            prompt = row.get(f"prompt_{self._language}") or row.get("prompt") or ""
            text = row.get(f"sub_dims_{self._language}") or row.get("sub_dims") or ""
            dims, is_repaired = parse_dimensions(text)
            points, descriptions = dims[points_key], dims[descriptions_key]
            if not points or not all(isinstance(each, str) for each in [*points, *descriptions]):
                raise ValueError(f"{points_key} or {descriptions_key} are no lists of texts")
            if len(points) != len(descriptions):
                problems.append(f"{self.label}: row {name} has points without description")
            return Item(
                id=name_of(row, "index"),
                category=text_of(dims, category_key),
                prompt=prompt.strip(),
                metadata={"points": points, "descriptions": descriptions, "is_repaired": is_repaired},
            )

        named = [(row.get("index") or f"row{number}", row) for number, row in enumerate(rows)]
        items, unreadable = items_of(self.label, named, item)
        problems += unreadable
        found = sum(len(item.metadata["points"]) for item in items if not item.fault)
        problems += count_problem(self.label, "test points", _POINTS[self.variant], found)
        return items, problems

    def image_path(self, item: Item, sample: int) -> str:
        """images/0_0.png."""
        return f"images/{item.id}_{sample}.png"

    def questions(self, item: Item, image: Image.Image, references: Sequence[Image.Image]) -> list[Question]:
        """All test points at once."""
        pairs = zip(item.metadata["points"], item.metadata["descriptions"], strict=False)
        points = "\n".join(f"{index}. {point}: {text}" for index, (point, text) in enumerate(pairs, start=1))
        return [Question(key="testpoints", fields={"prompt": item.prompt, "points": points}, images=(image,))]

    def response_schema(self, item: Item, question: Question) -> ResponseSchema:
        """A bit for each point."""
        return bits(len(item.metadata["points"]))

    def read(self, item: Item, key: str, reply: str) -> Any:
        """One bit a test point."""
        return parse(reply, len(item.metadata["points"]))

    def row(self, item: Item, answers: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """Share of points met in [0, 1]."""
        scores = answers["testpoints"]
        return sum(scores) / len(scores), {
            "testpoints": item.metadata["points"],
            "scores": scores,
            "is_repaired": item.metadata["is_repaired"],
        }

    def item_values(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float | None]:
        """The mean of the primary dimensions of each item in [0, 1]; None for one that is left out."""
        return {
            score.item: self.aggregate([score], protocol)["overall"] / 100
            if any(protocol == "fixed" or not row["is_repaired"] for row in score.rows)
            else None
            for score in scores
        }

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """In percent."""
        rows = [row for score in scores for row in score.rows]
        return aggregate([row for row in rows if protocol == "fixed" or not row["is_repaired"]])


def parse_dimensions(text: str) -> tuple[dict[str, Any], bool]:
    """(values, whether a missing comma between two texts had to be put in); ValueError for anything worse."""
    try:
        return json.loads(text), False
    except ValueError:
        return json.loads(re.sub(r'"\s+"', '", "', text)), True


def parse(reply: str, num_points: int) -> list[int] | None:
    """The score of each test point, 1 or 0, or None for a reply without both lists of that length.

    The first `analysis` and the first `score` tag count, each read as a Python list or tuple; any score but 1
    is 0.
    """
    lists = [tagged_list(reply, tag) for tag in ("analysis", "score")]
    if any(each is None or len(each) != num_points for each in lists):
        return None
    return [int(score == 1) for score in lists[1] or ()]


def parse_as_deepgen_rl(reply: str, num_points: int) -> list[int] | None:
    """As `parse`, where the analysis is any list: the rule of the evaluation while DeepGen's RL ran.

    What it could not read counted there as no for every point.
    """
    analysis, scores = tagged_list(reply, "analysis"), tagged_list(reply, "score")
    if analysis is None or scores is None or len(scores) != num_points:
        return None
    return [int(score == 1) for score in scores]


def tagged_list(reply: str, tag: str) -> Sequence[Any] | None:
    """The Python list or tuple in the first tag of a name; None where there is none."""
    match = re.search(rf"<{tag}>(.*?)</{tag}>", reply, flags=re.DOTALL)
    try:
        value = None if match is None else ast.literal_eval(match[1].strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return value if isinstance(value, list | tuple) else None


def primary_of(point: str) -> str:
    """The primary dimension of a test point: what stands before its first hyphen."""
    return point.split("-")[0].strip()


def aggregate_as_deepgen_rl(images: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """As `aggregate`, by the rule of the evaluation while DeepGen's RL ran, in percent.

    `overall` is pooled over all test points, an image without scores counts as no for every point, and a
    primary dimension ends at " - ", which Chinese names do not have.

    Args:
        images: `testpoints` and `scores`, which are None where the reply could not be read.
    """
    pools: dict[str, list[float]] = {}
    for image in images:
        points = image["testpoints"]
        for point, score in zip(points, image["scores"] or [0] * len(points), strict=True):
            for name in ("overall", f"primary {point.split(' - ')[0].strip()}", f"sub {point.strip()}"):
                pools.setdefault(name, []).append(float(score == 1))
    return {name: 100 * mean(values) for name, values in sorted(pools.items())}


def aggregate(images: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Accuracies in percent, pooled over all test points of all pictures.

    `overall` is the plain mean of the primary dimensions; `primary NAME` and `sub NAME` are those of each.

    Args:
        images: `testpoints` (names) and `scores` (1 or 0) of every picture whose reply could be read.
    """
    pools: dict[str, list[float]] = {}
    for image in images:
        for point, score in zip(image["testpoints"], image["scores"], strict=True):
            for name in (f"primary {primary_of(point)}", f"sub {point.strip()}"):
                pools.setdefault(name, []).append(float(score))
    table = {name: 100 * mean(values) for name, values in sorted(pools.items())}
    primary = [value for name, value in table.items() if name.startswith("primary ")]
    return {"overall": mean(primary), **table}


benchmark = UniGenBench
