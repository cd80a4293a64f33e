"""Counting of bad rows: each is logged once, and a run stops when their share passes a limit.

Bad rows are not replaced silently by other rows: that would change the mixture without notice, and with a
wrong root folder it would never end.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from deepgen.text_lines import shown

logger = logging.getLogger(__name__)

JUDGED_FROM = 100  # samples: before that, one bad row is already a per cent
NAMED = 5


@dataclass(frozen=True)
class BadRow:
    """A sample that could not be used: its global number, its source and key, and why."""

    sample: int
    source: str
    key: str
    reason: str


class TooManyBadRows(ValueError):
    """The share of bad rows has passed the limit."""


class BadRowTracker:
    """Counts samples and bad rows of one process.

    Args:
        limit: share of bad rows, in [0, 1], that is still accepted.
        path: where bad rows are appended, one JSON object a line, each row of data once. Processes need
            a file each.
    """

    def __init__(self, limit: float = 0.01, path: Path | None = None) -> None:
        if not 0 <= limit <= 1:
            raise ValueError(f"the limit is a share in [0, 1], got {limit}; 0.01 is one per cent")
        self.limit, self.path = limit, path
        self.num_samples = 0
        self.num_bad = 0
        self.first: list[BadRow] = []
        self._known: set[tuple[str, str]] = set()

    @property
    def share(self) -> float:
        """Bad rows among the samples so far."""
        return self.num_bad / self.num_samples if self.num_samples else 0.0

    def record(self, num_samples: int, bad: Iterable[BadRow] = ()) -> None:
        """Count so many samples, the bad ones among them; TooManyBadRows once the limit is passed."""
        self.num_samples += num_samples
        for row in bad:
            self.num_bad += 1
            if (row.source, row.key) not in self._known:
                self._known.add((row.source, row.key))
                self._write_down(row)
        if self.num_samples >= JUDGED_FROM:
            self.judge()

    def judge(self) -> None:
        """Raise TooManyBadRows when the share has passed the limit; call it at the end of a run, too."""
        if self.share <= self.limit:
            return
        examples = "; ".join(f"[{row.source}] {row.reason}" for row in self.first)
        where = f"; all are listed in {self.path}" if self.path else ""
        raise TooManyBadRows(
            f"{self.num_bad} of {self.num_samples} samples cannot be used ({self.share:.1%}), more than the "
            f"{self.limit:.1%} allowed. The first: {examples}{where}. Correct the root folder or the "
            "manifest, or raise bad_share_limit if that many are expected"
        )

    def _write_down(self, row: BadRow) -> None:
        row = replace(row, key=shown(row.key), reason=shown(row.reason))
        logger.warning("bad row, skipped: [%s] %s: %s", row.source, row.key, row.reason)
        if len(self.first) < NAMED:
            self.first.append(row)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
