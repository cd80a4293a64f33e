"""The storybook table in Markdown, for people: abilities, kinds, levels, controls, reasons."""

from __future__ import annotations

from collections.abc import Sequence

from deepgen.evaluation.statistics import seeds_note
from deepgen.tiny.evaluation.summary import HELD_OUT, RightShare, StorybookPart, StorybookReport

ABILITY_NAMES = {
    "generation": "generation",
    "text": "text rendering",
    "editing": "editing",
    "reasoning": "reasoning generation",
    "reasoning-editing": "reasoning editing",
}


def table(report: StorybookReport) -> str:
    """The whole table."""
    lines = [
        f"# Storybook: {report.model}",
        "",
        f"{report.num_prompts} held-out prompts a kind where there are as many, "
        f"{report.num_seeds} picture{'s' * (report.num_seeds != 1)} of each, "
        f"seed {report.seed}, {report.num_steps or 'default'} steps. Shares of right pictures on "
        "prompts that training never draws, with 95 % bootstrap intervals over distinct claims. Beside them: "
        "the same by level, in brackets the look-up; prompts that training may draw; the direct wording; the "
        "look-up, which is what the picture of the nearest training prompt reaches.",
        "",
        *_rows([_named(part) for part in report.abilities], "ability"),
    ]
    if report.chains is not None:
        lines += ["", f"{report.chains}."]
    for ability in report.abilities:
        kinds = [part for part in report.kinds if part.ability == ability.name]
        lines += ["", f"## {ABILITY_NAMES[ability.name].capitalize()}", "", *_rows(kinds, "kind"), ""]
        lines += [
            f"- {part.name}: {', '.join(f'{fault} ({count})' for fault, count in part.faults)}"
            for part in kinds
            if part.faults
        ]
    if report.seconds_per_image is not None:
        lines += ["", f"{report.seconds_per_image:.2f} s a picture."]
    if note := seeds_note(report.num_seeds):
        lines += ["", f"{note.capitalize()}."]
    return "\n".join(lines) + "\n"


def brief(report: StorybookReport) -> str:
    """A line an ability, for the terminal."""
    lines = []
    for part in report.abilities:
        low, high = part.held_out.interval
        line = f"{ABILITY_NAMES[part.name]:22} {part.held_out.share:.2f}  [{low:.2f}, {high:.2f}]"
        line += f"  {part.held_out.num_prompts} prompts"
        if part.trained is not None:
            line += f", trained prompts {part.trained.share:.2f}"
        if part.direct is not None:
            line += f", asked directly {part.direct.share:.2f}"
        if part.lookup is not None:
            line += f", look-up {part.lookup:.2f}"
        if part.kept is not None:
            line += f", cells kept {part.kept:.2f}"
        if part.psnr is not None:
            line += f", PSNR outside {part.psnr:.1f} dB"
        lines.append(line)
    if report.chains is not None:
        lines.append(str(report.chains))
    if note := seeds_note(report.num_seeds):
        lines.append(note)
    return "\n".join(lines)


def _named(part: StorybookPart) -> StorybookPart:
    return StorybookPart(**{**vars(part), "name": ABILITY_NAMES[part.name]})


def _rows(parts: Sequence[StorybookPart], what: str) -> list[str]:
    levels = [level for level in HELD_OUT if any(level in part.levels for part in parts)]
    columns = [what, "held out", "95 % interval", "prompts", "claims", *levels, "trained"]
    has_direct = any(part.direct is not None for part in parts)
    has_lookup = any(part.lookup is not None for part in parts)
    is_edit = any(part.kept is not None for part in parts)
    columns += ["asked directly"] * has_direct + ["look-up"] * has_lookup
    columns += ["cells kept", "PSNR outside (dB)"] * is_edit
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for part in parts:
        low, high = part.held_out.interval
        cells = [part.name, f"**{part.held_out.share:.2f}**", f"{low:.2f} to {high:.2f}"]
        counts = (part.held_out.num_prompts, part.held_out.num_claims)
        cells += [*map(str, counts), *(_level(part, level) for level in levels)]
        cells.append(_shown(part.trained))
        cells += [_shown(part.direct)] * has_direct + [_number(part.lookup, 2)] * has_lookup
        cells += [_number(part.kept, 2), _number(part.psnr, 1)] if is_edit else []
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _level(part: StorybookPart, level: str) -> str:
    """A level's share, and in brackets what the look-up reaches on it."""
    if level not in part.levels:
        return ""
    looked_up = part.lookup_levels.get(level)
    return _shown(part.levels[level]) + ("" if looked_up is None else f" ({looked_up:.2f})")


def _shown(share: RightShare | None) -> str:
    return "" if share is None else f"{share.share:.2f}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
