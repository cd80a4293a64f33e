"""`deepgen info`: what a checkpoint is, without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from deepgen.cli.loading import locate
from deepgen.cli.options import needed_model
from deepgen.cli.outputs import print_report


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what a checkpoint or a named architecture holds, and the memory it needs."""

    path: Positional[Annotated[str | None, arg(metavar="NAME|PATH")]] = None
    """`tiny`, a folder, a checkpoint file, a Hub name, or an architecture such as deepgen-1.0."""
    model: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """Another way to name it."""
    json: bool = False
    """Print JSON, for programs."""

    def run(self) -> int:
        """Exit code 0 once it is printed."""
        from deepgen.checkpoints.info import info

        source = locate(needed_model(self.path, self.model, "info"))
        print_report(info(source), as_json=self.json)
        return 0
