"""An HTML page of runs: an overview, tables, bars by category, pictures side by side, manifests.

The page contains everything it shows, loads nothing from the network, and has no script.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from deepgen.data.images import open_image
from deepgen.evaluation.published import Reference, reference_of
from deepgen.evaluation.report import NOT_COMPARABLE, Result, caveats, groups_of, made_with, markdown, number

_WARNINGS = ("PARTIAL", "NO SCORE", NOT_COMPARABLE)
_NUM_SHOWN, _NUM_BESIDE, _THUMB = 6, 6, 224
_COLORS = ("#4269d0", "#e8743b", "#3ca951", "#a463f2", "#c9a227", "#ff6f91")

_STYLE = """
:root{color-scheme:light dark;--ink:#1c1d22;--soft:#6b6e7a;--line:#e3e4ea;--card:#fff;--page:#f6f6f9;
--warn:#9a4a00;--warnbg:#fff3e0}
@media(prefers-color-scheme:dark){:root{--ink:#e8e8ee;--soft:#9a9dab;--line:#33353f;--card:#1d1e25;
--page:#131419;--warn:#ffb45e;--warnbg:#3a2a12}}
*{box-sizing:border-box}
body{font:15px/1.55 system-ui,sans-serif;margin:0;background:var(--page);color:var(--ink)}
main{max-width:1080px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:2rem;margin:0 0 .2rem;letter-spacing:-.02em}h2{font-size:1.35rem;margin:0 0 .8rem}
h3{font-size:1rem;margin:1.8rem 0 .6rem}.sub{color:var(--soft);margin:0 0 1.6rem}
section{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:1.4rem 1.6rem;
margin:1.4rem 0}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}
td,th{padding:.42rem .7rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:middle}
th{font-weight:600;color:var(--soft);font-size:.85rem}tr:last-child td{border-bottom:0}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}tr.ref td{color:var(--soft)}
small{color:var(--soft)}.dot{display:inline-block;width:.7rem;height:.7rem;border-radius:50%;margin-right:.5rem}
.track{display:block;height:8px;min-width:120px;border-radius:4px;background:var(--line);overflow:hidden}
.track i{display:block;height:100%;border-radius:4px}
ul.notes{margin:.2rem 0 1rem;padding:0;list-style:none;color:var(--soft);font-size:.88rem}
ul.notes li{padding:.12rem 0}ul.notes li.warn{display:inline-block;color:var(--warn);background:var(--warnbg);
font-weight:600;border-radius:6px;padding:.15rem .6rem;margin:.15rem 0}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:1rem}
figure{margin:0;font-size:.8rem}figure img{width:100%;aspect-ratio:1;object-fit:contain;border-radius:8px;
display:block;background:var(--line)}figcaption{overflow-wrap:anywhere;padding-top:.35rem}
figcaption em{color:var(--soft);display:block;font-style:normal}
.mark{font-weight:700;font-variant-numeric:tabular-nums}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(400px,100%),1fr));gap:1.2rem 2rem}
.pair p{margin:0 0 .5rem;font-size:.9rem;font-weight:600}
.pair>div{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:1rem}
details{margin:.7rem 0}summary{cursor:pointer;color:var(--soft)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px;background:var(--page);border-radius:8px;
padding:.8rem}svg text{fill:var(--ink)}svg .soft{fill:var(--soft)}svg .grid{stroke:var(--line)}
svg .span{stroke:var(--ink);stroke-width:1.2}svg{min-width:560px}
@media(max-width:600px){main{padding:1.5rem .75rem}section{padding:1rem}td,th{padding:.4rem .4rem}
table:has(.track) :is(td,th):nth-child(2){display:none}}
"""


def page(results: Sequence[Result]) -> str:
    """One HTML document without any request to elsewhere."""
    models = list(dict.fromkeys(result.model for result in results))
    colors = {model: _COLORS[index % len(_COLORS)] for index, model in enumerate(models)}
    groups = groups_of(results)
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1"><title>Evaluation</title>',
        f"<style>{_STYLE}</style><main><h1>Evaluation</h1>",
        f'<p class="sub">{_count(len(models), "model")}, {_count(len(groups), "table")}; '
        "95 % bootstrap intervals over items</p>",
        _overview(groups, models, colors),
        *(_section(group, colors) for group in groups),
    ]
    return "".join([*parts, "</main></html>\n"])


def write_report(results: Sequence[Result], output: Path) -> list[Path]:
    """The page at `output`, and the Markdown beside it; returns both."""
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_suffix(".md")
    output.write_text(page(results), encoding="utf-8")
    beside.write_text(markdown(results), encoding="utf-8")
    return [output, beside]


# --- tables -------------------------------------------------------------------------------------------------


def _overview(groups: Sequence[Sequence[Result]], models: Sequence[str], colors: Mapping[str, str]) -> str:
    """A row a table, a column a model, the headline numbers."""
    head = "".join(f'<th class="n">{_dot(colors[model])}{_text(model)}</th>' for model in models)
    rows = []
    for group in groups:
        found = {result.model: result for result in group}
        headline = group[0].document["headline"]
        cells = "".join(
            f'<td class="n">{_cell(found[model], headline) if model in found else ""}</td>'
            for model in models
        )
        rows.append(f"<tr><td>{_text(group[0].label)} <small>{_text(headline)}</small></td>{cells}</tr>")
    table = f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"
    return f"<section>{_wide('Overview', table)}</section>"


def _section(group: Sequence[Result], colors: Mapping[str, str]) -> str:
    first = group[0]
    names = list(dict.fromkeys(name for result in group for name in result.document["table"]))
    headline = first.document["headline"]
    others = [name for name in names if name != headline]
    notes = "".join(
        f'<li class="{"warn" if line.startswith(_WARNINGS) else "note"}">{_text(line)}</li>'
        for line in dict.fromkeys(line for result in group for line in caveats(result))
    )
    parts = [f"<section><h2>{_text(first.label)}</h2>", _headlines(group, colors)]
    parts.append(f'<ul class="notes">{notes}</ul>')
    if others:
        drawn = bars(group, others, [colors[each.model] for each in group])
        parts.append(f"<h3>By category</h3>{_wide('Bars', drawn)}{_numbers(group, others)}")
    parts.append(_side_by_side(group, colors))
    for result in group:
        parts += [_best_and_worst(result), _details(result)]
    return "".join([*parts, "</section>"])


def _headlines(group: Sequence[Result], colors: Mapping[str, str]) -> str:
    """The number that is quoted, of each model and of published ones, with a bar for the eye."""
    headline = group[0].document["headline"]
    reference = reference_of(group[0].label)
    values = [result.document["table"].get(headline) or 0.0 for result in group]
    values += [] if reference is None else list(reference.rows.values())
    longest = max([*values, 0.0]) or 1.0
    if longest <= 1:
        longest = 1.0
    rows = [
        f"<tr><td>{_dot(colors[result.model])}{_text(result.model)}</td>"
        f"<td>{_track(value / longest, colors[result.model])}</td>"
        f'<td class="n">{_cell(result, headline)}</td>'
        f'<td class="n">{result.document["coverage"]:.1%}</td>{_made(*made_with(result))}</tr>'
        for result, value in zip(group, values, strict=False)
    ]
    head = (
        f'<tr><th>model</th><th></th><th class="n">{_text(headline)}</th><th class="n">judged</th>'
        "<th>judge</th><th>prompts</th><th>rewriting</th></tr>"
    )
    rows += [] if reference is None else _published(reference, longest)
    return _wide("Scores", f"<table>{head}{''.join(rows)}</table>")


def _made(judge: str, prompts: str, rewriting: str) -> str:
    """Three cells."""
    return "".join(f"<td><small>{_text(part)}</small></td>" for part in (judge, prompts, rewriting))


def _published(reference: Reference, longest: float) -> list[str]:
    rows = [
        f'<tr class="ref"><td>{_text(name)}, published</td><td>{_track(value / longest, "#9a9dab")}</td>'
        f'<td class="n">{number(value)}</td><td></td>'
        f"{_made(reference.judge_in_words, reference.prompts, reference.rewriting(name))}</tr>"
        for name, value in sorted(reference.rows.items(), key=lambda pair: -pair[1])
    ]
    source = "; ".join(part for part in (f"Published rows: {reference.source}", reference.note) if part)
    return [*rows, f'<tr class="ref"><td colspan="7"><small>{_text(source)}.</small></td></tr>']


def _numbers(group: Sequence[Result], names: Sequence[str]) -> str:
    head = "".join(f'<th class="n">{_text(result.model)}</th>' for result in group)
    body = "".join(
        f"<tr><td>{_text(name)}</td>"
        + "".join(f'<td class="n">{_cell(result, name)}</td>' for result in group)
        + "</tr>"
        for name in names
    )
    table = f"<table><tr><th></th>{head}</tr>{body}</table>"
    return f"<details><summary>Numbers by category</summary>{_wide('Numbers by category', table)}</details>"


def _wide(label: str, content: str) -> str:
    """What scrolls sideways where the window is narrow, also by keys."""
    return f'<div class="wide" role="group" tabindex="0" aria-label="{label}">{content}</div>'


def _cell(result: Result, name: str) -> str:
    value, span = result.document["table"].get(name), result.spans.get(name)
    if value is None:
        return "none"
    mark = " (partial)" if result.document["is_partial"] and name == result.document["headline"] else ""
    between = "" if span is None else f" <small>[{number(span[0])}, {number(span[1])}]</small>"
    return f"<b>{number(value)}</b>{between}{mark}"


def _track(share: float, color: str) -> str:
    return f'<span class="track"><i style="width:{100 * max(0.0, share):.1f}%;background:{color}"></i></span>'


def _dot(color: str) -> str:
    return f'<span class="dot" style="background:{color}"></span>'


def bars(group: Sequence[Result], names: Sequence[str], colors: Sequence[str] = _COLORS) -> str:
    """Bars with their intervals as inline SVG, one row a name, one bar a result in its color."""
    longest = _longest(group, names)
    label, width, thick = 230, 660, 13
    step = thick * len(group) + 12
    height = step * len(names) + 26
    shapes = [
        f'<line class="grid" x1="{label + share * width:.0f}" x2="{label + share * width:.0f}" y1="4" '
        f'y2="{height - 20}"/><text class="soft" x="{label + share * width:.0f}" y="{height - 6}" '
        f'text-anchor="middle">{share * longest:g}</text>'
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    for row, name in enumerate(names):
        top = 4 + row * step
        middle = top + thick * len(group) / 2 + 4
        shapes.append(f'<text x="{label - 10}" y="{middle:.0f}" text-anchor="end">{_text(name[:36])}</text>')
        for index, result in enumerate(group):
            place = (label, top + index * thick, width / longest)
            shapes.append(_bar(result, name, colors[index % len(colors)], place, thick))
    return (
        f'<svg viewBox="0 0 {label + width + 60} {height}" width="100%" font-size="12" '
        f'font-family="system-ui,sans-serif" role="img" aria-label="Bars by category">{"".join(shapes)}</svg>'
    )


def _longest(group: Sequence[Result], names: Sequence[str]) -> float:
    """Where the scale ends: 1 for shares, else the largest number or bound."""
    values = [
        abs(bound)
        for result in group
        for name in names
        for bound in (result.document["table"].get(name, 0.0), *result.spans.get(name, ()))
    ]
    longest = max(values, default=0.0)
    return 1.0 if longest <= 1 else longest


def _bar(result: Result, name: str, color: str, place: tuple[float, float, float], thick: int) -> str:
    """One bar with its value at its end; `place` is left, top and pixels a unit."""
    value, span = result.document["table"].get(name), result.spans.get(name)
    if value is None:
        return ""
    left, top, unit = place
    long = max(value, 0.0) * unit
    end = left + max([long, *(max(bound, 0.0) * unit for bound in span or ())]) + 6
    shapes = [
        f'<rect x="{left}" y="{top}" width="{long:.1f}" height="{thick - 3}" rx="2" '
        f'fill="{color}"><title>{_text(result.model)}: {number(value)}</title></rect>',
        f'<text class="soft" x="{end:.1f}" y="{top + thick - 4}" font-size="10">{number(value)}</text>',
    ]
    if span is not None:
        low, high = (left + max(bound, 0.0) * unit for bound in span)
        middle = top + (thick - 3) / 2
        shapes.append(f'<line class="span" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>')
    return "".join(shapes)


# --- pictures -----------------------------------------------------------------------------------------------


def _side_by_side(group: Sequence[Result], colors: Mapping[str, str]) -> str:
    """Items the models differ most about, with every model's picture; nothing for one model."""
    tables = [{item["item"]: item for item in result.document["items"]} for result in group]
    shared = [name for name in tables[0] if all(_is_shown(table.get(name)) for table in tables)]
    apart = {
        name: max(table[name]["value"] for table in tables) - min(table[name]["value"] for table in tables)
        for name in shared
    }
    chosen = sorted((name for name in shared if apart[name] > 0), key=lambda name: (-apart[name], name))
    if len(group) < 2 or not chosen:
        return ""
    rows = []
    for name in chosen[:_NUM_BESIDE]:
        figures = "".join(
            _figure(result, table[name], f"{_dot(colors[result.model])}{_text(result.model)}")
            for result, table in zip(group, tables, strict=True)
        )
        prompt = _text(tables[0][name]["prompt"][:300])
        rows.append(f'<div class="pair"><p>{prompt}</p><div>{figures}</div></div>')
    return f'<h3>Side by side: where the models differ most</h3><div class="pairs">{"".join(rows)}</div>'


def _is_shown(item: Mapping[str, Any] | None) -> bool:
    return item is not None and item["value"] is not None and bool(item["pictures"])


def _best_and_worst(result: Result) -> str:
    known = [item for item in result.document["items"] if _is_shown(item)]
    known.sort(key=lambda item: (item["value"], item["item"]))
    worst = known[:_NUM_SHOWN]
    best = [item for item in reversed(known[-_NUM_SHOWN:]) if item not in worst]
    parts = []
    for title, items in (("Best", best), ("Worst", worst)):
        if items:
            cards = "".join(
                _figure(result, item, f"{_text(item['category'])}: {_text(item['prompt'][:160])}")
                for item in items
            )
            parts.append(f'<h3>{title} of {_text(result.model)}</h3><div class="cards">{cards}</div>')
    return "".join(parts)


def _figure(result: Result, item: Mapping[str, Any], caption: str) -> str:
    """The item's first picture, its value, a caption in HTML, and what was said about it."""
    image = open_image(result.folder / item["pictures"][0])
    image.thumbnail((_THUMB, _THUMB))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    words = item["words"].splitlines()[0] if item["words"] else ""
    return (
        f'<figure><img alt="{_text(item["prompt"][:200])}" src="data:image/jpeg;base64,{data}">'
        f'<figcaption><span class="mark">{number(item["value"])}</span> {caption}'
        f'<em title="{_text(item["words"][:2000])}">{_text(words[:200])}</em></figcaption></figure>'
    )


def _details(result: Result) -> str:
    document = result.document
    manifest = json.dumps(document["manifest"], indent=1, ensure_ascii=False)
    judge = f"\njudge in the last run: {json.dumps(document['judge'])}" if "judge" in document else ""
    parts = [
        f"<details><summary>How {_text(result.model)} was made and scored</summary>"
        f"<pre>{_text(manifest + judge)}</pre></details>"
    ]
    if document["problems"]:
        shown = "\n".join(document["problems"][:200])
        parts.append(
            f"<details><summary>{_count(len(document['problems']), 'problem')}</summary>"
            f"<pre>{_text(shown)}</pre></details>"
        )
    return "".join(parts)


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _text(text: str) -> str:
    return html.escape(str(text), quote=True)
