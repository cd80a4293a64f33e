"""`deepgen info`: what a checkpoint is, without loading it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what a checkpoint holds: layout, parts, sizes, number formats."""

    path: Positional[str]
    """`tiny`, a folder, a checkpoint file or a Hub name."""
    json: bool = False
    """Print JSON, for programs."""

    def run(self) -> int:
        """Exit code 0 once it is printed."""
        from deepgen.models.info import info

        found = info(self.path)
        print(json.dumps(asdict(found), indent=2, default=str) if self.json else found)
        return 0
