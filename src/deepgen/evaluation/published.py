"""Numbers others have published, for reference rows. Each table says whose they are and by what rule.

Judges and settings of these numbers are only partly stated by their authors: they are shown beside ours and
never tested against ours. The numbers stand in `published.json`, by the benchmark with its variant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Rows of one benchmark.

    Attributes:
        metric: the number of our table they stand for.
        source: where they were read.
        rows: by model.
        note: what was different, as far as known.
    """

    metric: str
    source: str
    rows: Mapping[str, float]
    note: str = ""


PUBLISHED: Mapping[str, Reference] = {
    label: Reference(**fields)
    for label, fields in json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8")).items()
}
