"""Reports of `verify` and `info`, for people or for programs."""

from __future__ import annotations

import json
from typing import Any, Protocol


class Report(Protocol):
    """Anything that reads well as text and has a dictionary for programs."""

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        ...


def print_report(report: Report, *, as_json: bool) -> None:
    """To stdout, as text or as JSON; what JSON has no word for (paths) becomes text."""
    print(json.dumps(report.to_dict(), indent=2, default=str) if as_json else report)
