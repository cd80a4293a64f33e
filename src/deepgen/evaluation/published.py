"""Numbers others have published, for reference rows, and how they were made as far as it is stated.

A number belongs to its judge, its prompts and to what rewrote them: each of these is shown beside it, next to
that of the run, and where they differ the report says so. They are never tested against ours. The numbers
stand in `published.json`, by the benchmark with its variant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SAME_NUMBERS = {"cvtg2k-clip": "cvtg2k", "dpg-vqa": "dpg"}  # variants that measure more, or otherwise


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Rows of one benchmark.

    Attributes:
        metric: the number of our table they stand for.
        source: where they were read.
        judge: what judged or measured: as stated there, else that of the official scorer.
        judge_is_stated: whether the source says so.
        judge_names: how versions of that judge are named, in small letters.
        prompts: which prompts were drawn.
        rows: by model.
        note: what else was different, as far as known.
    """

    metric: str
    source: str
    judge: str
    judge_is_stated: bool
    judge_names: tuple[str, ...]
    prompts: str
    rows: Mapping[str, float]
    note: str = ""

    @property
    def judge_in_words(self) -> str:
        """The judge, and whether that is known."""
        return self.judge if self.judge_is_stated else f"not stated (official: {self.judge})"

    @property
    def wording(self) -> str:
        """What the judge was asked with."""
        return "official wording" if self.judge_is_stated else "wording not stated"

    def rewriting(self, model: str) -> str:
        """What is known of the rewriting of prompts before a model of the rows drew them."""
        if model.startswith("DeepGen"):
            return "none"  # its scripts draw prompts as they are
        return "the model reasons before it draws" if "(CoT)" in model else "not stated"


PUBLISHED: Mapping[str, Reference] = {
    label: Reference(**{**fields, "judge_names": tuple(fields["judge_names"])})
    for label, fields in json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8")).items()
}


def reference_of(label: str) -> Reference | None:
    """The published numbers of a benchmark with its variant; None where there are none."""
    return PUBLISHED.get(_SAME_NUMBERS.get(label, label))


# --- a run beside them --------------------------------------------------------------------------------------


def judge_of(manifest: Mapping[str, Any]) -> str:
    """What judged or measured a run, and in whose words it was asked."""
    known = manifest.get("scored_by")
    if not isinstance(known, Mapping):  # of a manifest before it was recorded
        return str(manifest["scorer"])
    names = ", ".join(map(str, known.values())) or "exact, from pixels"
    prompts = manifest.get("prompts")
    return names if not isinstance(prompts, Mapping) else f"{names}, {wording_of(prompts)}"


def wording_of(prompts: Mapping[str, Any]) -> str:
    """The judge's prompts in words."""
    if prompts.get("from") == "our own wording":
        return "our own wording"
    return f"wording of {prompts.get('from')} ({prompts.get('revision')})"


def differences(manifest: Mapping[str, Any], reference: Reference) -> list[str]:
    """How a run was made otherwise than the published rows, one line each; what is not stated is not known to
    be the same.
    """
    lines = []
    scored = manifest.get("scored_by") or {"scorer": manifest["scorer"]}
    used = " ".join(map(str, scored.values()))
    is_same = any(name in used.casefold() for name in reference.judge_names)
    if not is_same or not reference.judge_is_stated:
        lines.append(f"judge: {used} here, {reference.judge_in_words} there")
    if "prompts ours" in manifest["scorer"]:
        lines.append(f"the judge was asked in our own wording here, {reference.wording} there")
    drawn = str(manifest.get("drawn_prompts", "not recorded"))
    if drawn != "official files":
        lines.append(f"prompts: {drawn} here, {reference.prompts} there")
    rewriting = str(manifest.get("rewriting", "not recorded"))
    if not rewriting.startswith("none"):
        lines.append(f"rewriting: {rewriting} here, none there by DeepGen's scripts")
    if manifest["published_settings"] is not True:
        lines.append(f"settings: {', '.join(manifest['published_settings'])} are changed here")
    return lines
