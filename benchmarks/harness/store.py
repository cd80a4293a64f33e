"""Results that are kept as they come, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Store:
    """The cells of one section in one JSON file, written after every cell."""

    def __init__(self, folder: Path, section: str, settings: dict[str, Any], fresh: bool = False) -> None:
        """Cells measured before with other `settings` are dropped, and all are if `fresh`."""
        self.path, self.section = folder / f"{section}.json", section
        known = json.loads(self.path.read_text()) if self.path.is_file() and not fresh else {}
        is_same = known.get("settings") == json.loads(json.dumps(settings))
        if known and not is_same:
            print(f"[{section}] settings changed: measuring anew", file=sys.stderr, flush=True)
        self.content = known if is_same else {"settings": settings, "cells": {}}

    @property
    def cells(self) -> dict[str, Any]:
        """What is known, by name."""
        return self.content["cells"]

    def cell(self, name: str, measure: Callable[[], Any]) -> Any:
        """The cell of that name: what is known, or what `measure` returns."""
        if name not in self.cells:
            started = time.perf_counter()
            print(f"[{self.section}] {name} ...", end=" ", file=sys.stderr, flush=True)
            self.cells[name] = measure()
            print(f"{time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
            self.save()
        return self.cells[name]

    def save(self) -> None:
        """Write everything, in one move."""
        self.content["date"] = datetime.now(UTC).isoformat(timespec="minutes")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".part")
        partial.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)
