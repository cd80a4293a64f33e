"""`deepgen info`: what a checkpoint is, without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from deepgen.commands.loading import locate
from deepgen.commands.reporting import print_report


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what a checkpoint or a named architecture holds, and the memory it needs."""

    path: Positional[Annotated[str, arg(metavar="NAME|PATH")]]
    """`tiny`, a folder, a checkpoint file, a Hub name, or an architecture such as deepgen-1.0."""
    json: bool = False
    """Print JSON, for programs."""

    def run(self) -> int:
        """Exit code 0 once it is printed."""
        from deepgen.models.info import info

        print_report(info(locate(self.path)), as_json=self.json)
        return 0
