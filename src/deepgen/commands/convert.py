"""`deepgen convert`: any released or trained checkpoint as a folder that loads without further ado."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write a checkpoint of any known layout in another one."""

    source: Positional[str]
    """A folder, a checkpoint file or a Hub name."""
    target: Positional[Path]
    """The folder to write."""

    def run(self) -> int:
        """Exit code 0 once the target is complete."""
        from deepgen.models.convert import convert

        convert(self.source, self.target)
        print(self.target)
        return 0
