"""Reports of finished runs: numbers with intervals, caveats, Markdown tables, comparison of two runs.

Runs scored in different ways stand in different tables, since one table would say that their numbers can be
compared. The page is made in `deepgen.evaluation.report_page`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepgen.evaluation.benchmark import ItemScore, with_standard_names
from deepgen.evaluation.benchmarks import load_benchmark
from deepgen.evaluation.published import differences, judge_of, reference_of
from deepgen.evaluation.scoring import open_questions
from deepgen.evaluation.statistics import FEWEST, Paired, intervals, paired
from deepgen.user_files import named_by


@dataclass(frozen=True, kw_only=True)
class Result:
    """One benchmark of one run.

    Attributes:
        folder: where it lies.
        document: what `result.json` holds.
        spans: 95 % intervals by number.
    """

    folder: Path
    document: Mapping[str, Any]
    spans: Mapping[str, tuple[float, float]]

    @property
    def label(self) -> str:
        """The benchmark with its variant."""
        return str(self.document["benchmark"])

    @property
    def model(self) -> str:
        """The model's name, with the run's folder."""
        return f"{self.document['manifest']['drawing']['model']} ({self.folder.parent.name})"

    @property
    def way(self) -> str:
        """What has to be equal for numbers to stand in one table."""
        manifest = self.document["manifest"]
        drawing = with_standard_names(manifest["drawing"])
        same = {key: drawing[key] for key in ("version", "data", "settings")}
        same |= {key: manifest[key] for key in ("scorer", "protocol", "limit")}
        return json.dumps(same, sort_keys=True)

    @property
    def values(self) -> dict[str, float]:
        """By item, where there is one."""
        return {item["item"]: item["value"] for item in self.document["items"] if item["value"] is not None}


def read_results(runs: Sequence[Path], *, num_draws: int = 200) -> list[Result]:
    """Every benchmark in the folders of some runs, or in folders of single benchmarks.

    Raises:
        FileNotFoundError: a folder holds no result.
    """
    results = []
    for run in runs:
        found = [run] if (run / "result.json").is_file() else []
        found += sorted(path.parent for path in run.glob("*/result.json"))
        if not found:
            raise FileNotFoundError(f"{run} holds no result.json; run `deepgen eval run` into it first")
        results += [_read(folder, num_draws) for folder in found]
    return results


def _read(folder: Path, num_draws: int) -> Result:
    document = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    spans: dict[str, tuple[float, float]] = {}
    if document["table"] and num_draws:
        name, _, variant = document["benchmark"].partition("-")
        # a path, for one of a file
        source = named_by(folder, document["manifest"].get("source", f"{name}:{variant}"), Path())
        benchmark = load_benchmark(source, document["manifest"]["protocol"])
        scores = [_score(item) for item in document["items"]]
        claims = {
            item["item"]: claim for item in document["items"] if (claim := _claim(item, benchmark.is_edit))
        }
        spans = intervals(
            scores,
            lambda chosen: benchmark.aggregate(chosen, benchmark.protocol),
            claims=claims,
            num_draws=num_draws,
        )
    return Result(folder=folder, document=document, spans=spans)


def _claim(item: Mapping[str, Any], is_edit: bool) -> str | None:
    """What has to hold in the item's pictures: as its verdicts say, else its prompt; None for an edit, which
    is about a picture of its own.
    """
    named = next((row["claim"] for row in item["rows"] if isinstance(row, Mapping) and "claim" in row), None)
    return named or (None if is_edit else item["prompt"])


def _score(item: Mapping[str, Any]) -> ItemScore:
    names = ("item", "category", "value", "words", "num_expected", "num_scored")
    fields = {key: item[key] for key in (*names, *({"num_questions", "num_answered"} & set(item)))}
    return ItemScore(**fields, rows=tuple(item["rows"]), problems=tuple(item["problems"]))


# --- words --------------------------------------------------------------------------------------------------


NOT_COMPARABLE = "NOT MADE LIKE THE PUBLISHED ROWS"


def caveats(result: Result) -> list[str]:
    """What a reader has to know before the number, one line each."""
    document, manifest = result.document, result.document["manifest"]
    lines = []
    if document["is_partial"]:
        lines.append(
            f"PARTIAL: {document['num_judged']} of {document['num_expected']} pictures judged, "
            f"{len(document['items'])} of {manifest['num_items']} items drawn"
        )
    if left := open_questions(document):
        lines.append(left)
    if not document["table"]:
        lines.append("NO SCORE: too few pictures have a verdict")
    reference = reference_of(result.label)
    if reference is not None and (differ := differences(manifest, reference)):
        lines.append(f"{NOT_COMPARABLE}: {'; '.join(differ)}")
    elif "prompts ours" in manifest["scorer"]:
        lines.append("the judge was asked in our own words: not comparable with published scores")
    if manifest["published_settings"] is not True:
        lines.append(f"settings differ from the published ones: {', '.join(manifest['published_settings'])}")
    if manifest["drawing"]["seeds"] == "sequential":
        lines.append("sequential noise: pictures depend on batch size and number of processes")
    if document["table"] and not result.spans:
        lines.append(f"no intervals: a category has fewer than {FEWEST} items, or none were asked for")
    lines.append(f"protocol {manifest['protocol']}: {manifest['protocol_note']}")
    for group in document["same_pictures"][:3]:
        lines.append(f"the same file twice: {', '.join(group)}")
    if document["strangers"]:
        lines.append(
            f"{len(document['strangers'])} pictures no record names, such as {document['strangers'][0]}"
        )
    return lines


def number(value: float) -> str:
    """Four digits that count."""
    return f"{value:.4f}" if abs(value) < 2 else f"{value:.2f}"


def made_with(result: Result) -> tuple[str, str, str]:
    """(judge, prompts, rewriting) of a run; the prompts are those that were drawn."""
    manifest = result.document["manifest"]
    prompts, rewriting = (str(manifest.get(key, "not recorded")) for key in ("drawn_prompts", "rewriting"))
    return judge_of(manifest), prompts, rewriting.partition(":")[0]


def groups_of(results: Sequence[Result]) -> list[list[Result]]:
    """Results that may stand in one table."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.label, result.way), []).append(result)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def markdown(results: Sequence[Result]) -> str:
    """Tables of the headline numbers, with what has to be known about them."""
    lines = ["# Evaluation", ""]
    for group in groups_of(results):
        first = group[0]
        headline = first.document["headline"]
        lines += [f"## {first.label}", ""]
        lines += [
            f"| model | {headline} | 95 % interval | judged | judge | prompts | rewriting |",
            "|---|---|---|---|---|---|---|",
        ]
        for result in group:
            value, span = result.document["table"].get(headline), result.spans.get(headline)
            mark = " (partial)" if result.document["is_partial"] else ""
            shown = "none" if value is None else number(value)
            between = "" if span is None else f"{number(span[0])} to {number(span[1])}"
            judged = f"{result.document['coverage']:.1%}"
            made = " | ".join(made_with(result))
            lines.append(f"| {result.model} | {shown}{mark} | {between} | {judged} | {made} |")
        if (reference := reference_of(first.label)) is not None:
            lines += [
                f"| *{name}, published* | {number(value)} | | | {reference.judge_in_words} | "
                f"{reference.prompts} | {reference.rewriting(name)} |"
                for name, value in reference.rows.items()
            ]
            note = f"; {reference.note}" if reference.note else ""
            lines += ["", f"Published rows: {reference.source}{note}."]
        lines.append("")
        lines += [f"- {line}" for line in dict.fromkeys(line for result in group for line in caveats(result))]
        lines.append("")
    return "\n".join(lines)


# --- two runs -----------------------------------------------------------------------------------------------


def compared_metric(result: Result) -> str:
    """The number of the table that `compare` looks at by item."""
    return str(result.document.get("item_metric") or result.document["headline"])


def compare(first: Sequence[Result], second: Sequence[Result]) -> list[tuple[str, Paired, list[str]]]:
    """(benchmark and number, paired test by item, what was done differently) of every benchmark in both.

    Raises:
        ValueError: there is none, or scorers differ, since their values are on different scales.
    """
    others = {result.label: result for result in second}
    shared = [(one, others[one.label]) for one in first if one.label in others]
    if not shared:
        raise ValueError("the two runs share no benchmark")
    rows = []
    for one, other in shared:
        scorers = [result.document["manifest"]["scorer"] for result in (one, other)]
        if scorers[0] != scorers[1]:
            raise ValueError(
                f"{one.label}: scored by {scorers[0]} and by {scorers[1]}; score both with the same scorer"
            )
        drawings = [with_standard_names(result.document["manifest"]["drawing"]) for result in (one, other)]
        differ = [key for key in drawings[0] if drawings[0][key] != drawings[1].get(key)]
        rows.append((f"{one.label} {compared_metric(one)}", paired(one.values, other.values), differ))
    return rows
