"""Runs as one page: tables with intervals, bars by category, best and worst pictures, how it was made.

The page carries everything inside itself and asks nobody for anything. Runs scored in different ways
stand in different tables, since one table would say that their numbers can be compared.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from deepgen.eval.benchmark import ItemScore
from deepgen.eval.benchmarks import load_benchmark
from deepgen.eval.published import PUBLISHED
from deepgen.eval.statistics import FEWEST, Paired, intervals, paired

_NUM_SHOWN, _THUMB = 6, 224


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
        drawing = manifest["drawing"]
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
        benchmark = load_benchmark(f"{name}:{variant}", document["manifest"]["protocol"])
        scores = [_score(item) for item in document["items"]]
        spans = intervals(
            scores, lambda chosen: benchmark.aggregate(chosen, benchmark.protocol), num_draws=num_draws
        )
    return Result(folder=folder, document=document, spans=spans)


def _score(item: Mapping[str, Any]) -> ItemScore:
    fields = {key: item[key] for key in ("item", "category", "value", "words", "num_expected", "num_scored")}
    return ItemScore(**fields, rows=tuple(item["rows"]), problems=tuple(item["problems"]))


# --- words --------------------------------------------------------------------------------------------------


def caveats(result: Result) -> list[str]:
    """What a reader has to know before the number, one line each."""
    document, manifest = result.document, result.document["manifest"]
    lines = []
    if document["is_partial"]:
        lines.append(
            f"PARTIAL: {document['num_judged']} of {document['num_expected']} pictures judged, "
            f"{len(document['items'])} of {manifest['num_items']} items drawn"
        )
    if not document["table"]:
        lines.append("NO SCORE: too few pictures have a verdict")
    if "prompts ours" in manifest["scorer"]:
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
        lines += [f"| model | {headline} | 95 % interval | judged |", "|---|---|---|---|"]
        for result in group:
            value, span = result.document["table"].get(headline), result.spans.get(headline)
            mark = " (partial)" if result.document["is_partial"] else ""
            shown = "none" if value is None else number(value)
            between = "" if span is None else f"{number(span[0])} to {number(span[1])}"
            lines.append(
                f"| {result.model} | {shown}{mark} | {between} | {result.document['coverage']:.1%} |"
            )
        if (reference := PUBLISHED.get(first.label)) is not None:
            lines += [
                f"| *{name}, published* | {number(value)} | | |" for name, value in reference.rows.items()
            ]
            note = f"; {reference.note}" if reference.note else ""
            lines += ["", f"Published rows: {reference.source}{note}."]
        lines.append("")
        lines += [f"- {line}" for line in dict.fromkeys(line for result in group for line in caveats(result))]
        lines.append("")
    return "\n".join(lines)


# --- the page -----------------------------------------------------------------------------------------------

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem;color:#1b1b1f}
h1,h2,h3{line-height:1.2}h2{margin-top:3rem;border-top:1px solid #ddd;padding-top:1rem}
table{border-collapse:collapse;margin:.6rem 0}
td,th{padding:.25rem .8rem;border-bottom:1px solid #e4e4e8;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}tr.ref{color:#777}
.warn{color:#a03000;font-weight:600}.cards{display:flex;flex-wrap:wrap;gap:.8rem}
figure{margin:0;width:224px;font-size:12px}figure img{width:224px;border-radius:4px;display:block}
figcaption{overflow-wrap:anywhere}details{margin:.6rem 0}
pre{white-space:pre-wrap;font-size:12px;background:#f6f6f8;padding:.6rem}
"""


def page(results: Sequence[Result]) -> str:
    """One HTML document without any request to elsewhere."""
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Evaluation</title>',
        f"<style>{_STYLE}</style><h1>Evaluation</h1>",
    ]
    for group in groups_of(results):
        parts.append(_section(group))
    return "".join([*parts, "</html>\n"])


def write_report(results: Sequence[Result], output: Path) -> list[Path]:
    """The page at `output`, and the Markdown beside it; returns both."""
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_suffix(".md")
    output.write_text(page(results), encoding="utf-8")
    beside.write_text(markdown(results), encoding="utf-8")
    return [output, beside]


def _section(group: Sequence[Result]) -> str:
    first = group[0]
    names = list(dict.fromkeys(name for result in group for name in result.document["table"]))
    headline = first.document["headline"]
    parts = [f"<h2>{_text(first.label)}</h2>"]
    for line in dict.fromkeys(line for result in group for line in caveats(result)):
        kind = "warn" if line.startswith(("PARTIAL", "NO SCORE")) else "note"
        parts.append(f'<p class="{kind}">{_text(line)}</p>')
    rows = [
        f'<tr><td>{_text(result.model)}</td><td class="n">{_cell(result, headline)}</td>'
        f'<td class="n">{result.document["coverage"]:.1%}</td></tr>'
        for result in group
    ]
    if (reference := PUBLISHED.get(first.label)) is not None:
        rows += [
            f'<tr class="ref"><td>{_text(name)}, published</td><td class="n">{number(value)}</td></tr>'
            for name, value in reference.rows.items()
        ]
        rows.append(
            f'<tr class="ref"><td colspan="3">Published rows: {_text(reference.source)}. '
            f"{_text(reference.note)}</td></tr>"
        )
    parts.append(
        f'<table><tr><th>model</th><th class="n">{_text(headline)}</th><th class="n">judged</th></tr>'
        f"{''.join(rows)}</table>"
    )
    others = [name for name in names if name != headline]
    if others:
        head = "".join(f'<th class="n">{_text(result.model)}</th>' for result in group)
        body = "".join(
            f"<tr><td>{_text(name)}</td>"
            + "".join(f'<td class="n">{_cell(result, name)}</td>' for result in group)
            + "</tr>"
            for name in others
        )
        parts.append(f"<h3>By category</h3>{bars(group, others)}")
        parts.append(
            f"<details><summary>Numbers</summary><table><tr><th></th>{head}</tr>{body}</table></details>"
        )
    for result in group:
        parts.append(_pictures(result))
        parts.append(_details(result))
    return "".join(parts)


def _cell(result: Result, name: str) -> str:
    value, span = result.document["table"].get(name), result.spans.get(name)
    if value is None:
        return "none"
    mark = " (partial)" if result.document["is_partial"] and name == result.document["headline"] else ""
    between = "" if span is None else f" [{number(span[0])}, {number(span[1])}]"
    return f"{number(value)}{between}{mark}"


def bars(group: Sequence[Result], names: Sequence[str]) -> str:
    """Bars with their intervals as inline SVG, one row a name, one bar a result."""
    values = [
        bound
        for result in group
        for name in names
        for bound in (result.document["table"].get(name, 0.0), *result.spans.get(name, ()))
    ]
    longest = max([abs(value) for value in values] or [1.0]) or 1.0
    colors = ("#3b6fd4", "#d4703b", "#3ba272", "#8a5bd4", "#b0a030")
    label, width, thick = 260, 640, 11
    step = thick * len(group) + 9
    shapes = []
    for row, name in enumerate(names):
        top = row * step
        shapes.append(
            f'<text x="{label - 8}" y="{top + step / 2 + 2:.0f}" text-anchor="end">{_text(name[:44])}</text>'
        )
        for index, result in enumerate(group):
            value = result.document["table"].get(name)
            if value is None:
                continue
            y, long = top + 4 + index * thick, max(value, 0.0) / longest * width
            color = colors[index % len(colors)]
            shapes.append(
                f'<rect x="{label}" y="{y}" width="{long:.1f}" height="{thick - 2}" fill="{color}">'
                f"<title>{_text(result.model)}: {number(value)}</title></rect>"
            )
            if (span := result.spans.get(name)) is not None:
                low, high = (label + max(bound, 0.0) / longest * width for bound in span)
                middle = y + (thick - 2) / 2
                shapes.append(
                    f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="#111"/>'
                )
    height = step * len(names) + 6
    return (
        f'<svg viewBox="0 0 {label + width + 10} {height}" width="100%" font-size="12" '
        f'font-family="system-ui,sans-serif">{"".join(shapes)}</svg>'
    )


def _pictures(result: Result) -> str:
    known = [item for item in result.document["items"] if item["value"] is not None and item["pictures"]]
    known.sort(key=lambda item: (item["value"], item["item"]))
    worst = known[:_NUM_SHOWN]
    best = [item for item in reversed(known[-_NUM_SHOWN:]) if item not in worst]
    parts = []
    for title, items in (("Best", best), ("Worst", worst)):
        if items:
            cards = "".join(_card(result.folder, item) for item in items)
            parts.append(f'<h3>{title} of {_text(result.model)}</h3><div class="cards">{cards}</div>')
    return "".join(parts)


def _card(folder: Path, item: Mapping[str, Any]) -> str:
    with Image.open(folder / item["pictures"][0]) as opened:
        image = opened.convert("RGB")
    image.thumbnail((_THUMB, _THUMB))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    words = item["words"].splitlines()[0] if item["words"] else ""
    return (
        f'<figure><img alt="{_text(item["prompt"][:200])}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption><b>{number(item['value'])}</b> {_text(item['item'])} ({_text(item['category'])}): "
        f"{_text(item['prompt'][:160])}<br><i>{_text(words[:200])}</i></figcaption></figure>"
    )


def _details(result: Result) -> str:
    document = result.document
    manifest = json.dumps(document["manifest"], indent=1, ensure_ascii=False)
    judge = f"\njudge in the last run: {json.dumps(document['judge'])}" if "judge" in document else ""
    parts = [f"<details><summary>How it was made</summary><pre>{_text(manifest + judge)}</pre></details>"]
    if document["problems"]:
        shown = "\n".join(document["problems"][:200])
        parts.append(
            f"<details><summary>{len(document['problems'])} problems</summary>"
            f"<pre>{_text(shown)}</pre></details>"
        )
    return "".join(parts)


def _text(text: str) -> str:
    return html.escape(str(text), quote=True)


# --- two runs -----------------------------------------------------------------------------------------------


def compare(first: Sequence[Result], second: Sequence[Result]) -> list[tuple[str, Paired, list[str]]]:
    """(benchmark, paired test by item, what was done differently) of every benchmark in both.

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
        drawings = [result.document["manifest"]["drawing"] for result in (one, other)]
        differ = [key for key in drawings[0] if drawings[0][key] != drawings[1].get(key)]
        rows.append((one.label, paired(one.values, other.values), differ))
    return rows
