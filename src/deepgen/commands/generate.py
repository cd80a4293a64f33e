"""`deepgen generate`: a picture from words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from deepgen.commands.drawing import draw
from deepgen.commands.options import PictureOptions


@dataclass(frozen=True, kw_only=True)
class Generate(PictureOptions):
    """Draw pictures from a description."""

    prompt: Positional[Annotated[str, arg(metavar="TEXT")]]
    """What to draw."""

    def run(self) -> int:
        """Exit code 0 once every picture is saved."""
        draw(self, self.prompt)
        return 0
