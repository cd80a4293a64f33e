"""CVTG-2K (TextCrafter, 2025): 2,000 prompts with two to five quoted texts, read back by OCR.

Published numbers were made with PaddleOCR 2.10; RapidOCR runs models of the same family, so numbers are near
them and not the same.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.evaluation.benchmark import Benchmark, DataFile, Item, ItemScore, Protocol, count_problem, mean
from deepgen.evaluation.data_rows import items_of, name_of, text_of
from deepgen.evaluation.scorers import Scorers
from deepgen.evaluation.text_files import read_list
from deepgen.rewards.text_match import edit_distance

_FILES = {
    ("CVTG", 2): (200, "e8aa98a4f5d609f8699131328876760fbbf33db8320770188fc3979f3fa345c8"),
    ("CVTG", 3): (301, "36fca11a221236643ed9595d5302884db01e832309a61b230fab3eefdeff1be0"),
    ("CVTG", 4): (300, "24fb02addf2caae050d2e67e29af98fe10d1e086093cf43d3592bcdac8557c2c"),
    ("CVTG", 5): (201, "24d5a3afc060477cdcf5b678018d81c78e18dc0054aafacf8b02a69ae24118b2"),
    ("CVTG-Style", 2): (200, "61324577c690c4383597fffe53614d87088be108a3e577288d8e8baf71381489"),
    ("CVTG-Style", 3): (299, "26a92b4a53e5dc497317fb3a219121790b7a7c9da10b87b8dd3633fcadff0f97"),
    ("CVTG-Style", 4): (302, "1d1fe6c367191fd8a3939687f70b3e8bda83c0539344977506e09e2732e4e3ff"),
    ("CVTG-Style", 5): (197, "da102c0239726d1fcdf3f4cfccacd34e71d4c0a588e5a893f4bc94b03fff353a"),
}


@dataclass(frozen=True, kw_only=True)
class CVTG2K(Benchmark):
    """Word accuracy and NED; the variant `clip` measures CLIPScore too."""

    name = "cvtg2k"
    version = "2"
    variants = ("", "clip")
    needs = ("reader",)
    headline = "word_accuracy"

    def files(self) -> tuple[DataFile, ...]:
        """Two sets of four areas; the second set is also spelled CVTG-style."""
        return tuple(
            DataFile(
                path=f"{folder}/{area}.json",
                origin="https://huggingface.co/datasets/dnkdnk/CVTG-2K",
                sha256=digest,
                num_rows=count,
                aliases=(f"{folder.replace('Style', 'style')}/{area}.json",),
            )
            for (folder, area), (count, digest) in _FILES.items()
        )

    def read_items(self, data_dir: Path) -> tuple[list[Item], list[str]]:
        """In the official order: by area, then by set."""
        items, problems = [], []
        for folder, area in sorted(_FILES, key=lambda key: (key[1], key[0])):
            path = self.locate(
                data_dir, f"{folder}/{area}.json", f"{folder.replace('Style', 'style')}/{area}.json"
            )

            def item(name: str, row: Any, folder: str = folder, area: int = area) -> Item:
                return Item(
                    id=f"{folder}-{area}-{name_of(row, 'index')}",
                    category=f"area {area}",
                    prompt=text_of(row, "prompt").strip(),
                    metadata={"folder": folder, "area": area, "index": row["index"]},
                )

            rows = enumerate(read_list(path, "data_list"))
            made, unreadable = items_of(
                self.label, ((f"{folder}-{area}-row{i}", row) for i, row in rows), item
            )
            items += made
            problems += unreadable
        found = Counter((one.metadata["folder"], one.metadata["area"]) for one in items if not one.fault)
        problems += [
            problem
            for key, (expected, _) in _FILES.items()
            for problem in count_problem(self.label, f"prompts of {key[0]}/{key[1]}", expected, found[key])
        ]
        return items, problems

    def image_path(self, item: Item, sample: int) -> str:
        """images/CVTG/2/0.png."""
        return f"images/{item.metadata['folder']}/{item.metadata['area']}/{item.metadata['index']}.png"

    def scorer_version(self, scorers: Scorers) -> str:
        """The engine, and the tower where there is one."""
        reads = super().scorer_version(scorers)
        return f"{reads} {scorers.version('tower')}" if self.variant == "clip" else reads

    def score(self, item: Item, images: Sequence[Image.Image], scorers: Scorers) -> ItemScore:
        """Reads each picture; an engine that fails has every word wrong, as officially."""
        assert scorers.reader is not None
        targets = target_words(item.prompt)
        rows, words = [], []
        for image in images:
            try:
                lines: list[str] | None = scorers.reader(image)
            except (RuntimeError, ValueError) as error:
                lines = None
                words.append(f"the engine failed: {error}")
            row = {
                "area": item.metadata["area"],
                "set": item.metadata["folder"],
                **match(targets, None if lines is None else read_words(lines)),
            }
            if self.variant == "clip":
                if scorers.tower is None:
                    raise ValueError("cvtg2k:clip needs a tower; give --clip")
                cosine = scorers.tower(image, f"A photo depicts {item.prompt}")
                row["clip_score"] = clip_score(cosine)
            rows.append(row)
            words.append(f"read {' / '.join(lines or [])!r}")
        asked = sum(row["words"] for row in rows)
        return ItemScore(
            item=item.id,
            category=item.category,
            value=sum(row["likeness"] for row in rows) / asked if asked else 0.0,
            rows=tuple(rows),
            words="\n".join(words),
            num_expected=len(rows),
            num_scored=len(rows),
        )

    def item_values(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float | None]:
        """Word accuracy of each item, in [0, 1]."""
        values: dict[str, float | None] = {}
        for score in scores:
            words = sum(row["words"] for row in score.rows)
            values[score.item] = sum(row["right"] for row in score.rows) / words if words else None
        return values

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """Over all words; both protocols are the same."""
        return aggregate([row for score in scores for row in score.rows])


def make(*, variant: str = "", protocol: Protocol = "official") -> Benchmark:
    """The benchmark; measuring CLIPScore needs a tower as well."""
    return _WithClip(variant=variant, protocol=protocol) if variant == "clip" else CVTG2K(protocol=protocol)


class _WithClip(CVTG2K):
    needs = ("reader", "tower")


def target_words(prompt: str) -> list[str]:
    """Words between straight single quotes, in small letters. Apostrophes open and close quotes too, as
    officially.
    """
    return [word for span in re.findall(r"'(.*?)'", prompt) for word in span.lower().split()]


def read_words(lines: Sequence[str]) -> list[str]:
    """Words of the lines an OCR engine found, in small letters; one empty word where there is none."""
    return [word for line in lines for word in line.lower().split()] or [""]


def match(targets: Sequence[str], found: Sequence[str] | None) -> dict[str, float]:
    """Right words and likeness of one picture.

    Args:
        targets: words asked for.
        found: words read; None where the engine failed, which counts every word as wrong.

    Returns:
        `words`, `right` (targets that occur among the words read, which are not used up) and `likeness`, the
        sum over targets of 1 - distance / longest to the word that difflib holds for the closest.
    """
    right, likeness = 0, 0.0
    for word in targets if found is not None else ():
        assert found is not None
        right += word in found
        closest = difflib.get_close_matches(word, found, n=1, cutoff=0)
        if closest:
            longest = max(len(word), len(closest[0]))
            likeness += 1 - edit_distance(word, closest[0]) / (longest + 1e-5)
    return {"words": len(targets), "right": right, "likeness": likeness}


def clip_score(cosine: float) -> float:
    """2.5 times the cosine of a picture and `A photo depicts` with its prompt, at least 0."""
    return 2.5 * max(cosine, 0.0)


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Word accuracy and NED over all words, and CLIPScore over pictures where it was measured, all in [0,
    2.5].

    Args:
        rows: `area` (number of texts, 2 to 5), `words`, `right`, `likeness` and perhaps `set` (CVTG or
            CVTG-Style) and `clip_score`.

    Returns:
        `word_accuracy`, `ned`, `clip_score` of all, with ` area N` appended of each area, and with
        ` SET area N` of each area of a set, as the official scorer gives them.
    """
    table: dict[str, float] = {}
    groups = {"": list(rows)}
    for row in sorted(rows, key=lambda row: (str(row.get("set", "")), str(row["area"]))):
        groups.setdefault(f" area {row['area']}", []).append(row)
        if row.get("set"):
            groups.setdefault(f" {row['set']} area {row['area']}", []).append(row)
    for suffix, chosen in groups.items():
        num_words = sum(row["words"] for row in chosen)
        if num_words:
            table[f"word_accuracy{suffix}"] = sum(row["right"] for row in chosen) / num_words
            table[f"ned{suffix}"] = sum(row["likeness"] for row in chosen) / num_words
        measured = [float(row["clip_score"]) for row in chosen if row.get("clip_score") is not None]
        if measured:
            table[f"clip_score{suffix}"] = mean(measured)
    return table


benchmark = make
