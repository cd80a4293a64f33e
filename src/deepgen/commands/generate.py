"""`deepgen generate`: a picture from words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from deepgen.commands.drawing import draw
from deepgen.commands.options import PictureOptions
from deepgen.commands.prompt_file import draw_file


@dataclass(frozen=True, kw_only=True)
class Generate(PictureOptions):
    """Draw pictures from a description."""

    prompt: Positional[Annotated[str | None, arg(metavar="TEXT")]] = None
    """What to draw; "" draws from no words at all."""
    file: Annotated[Path | None, arg(metavar="FILE.jsonl")] = None
    """Instead of TEXT: a prompt, references, seed, size and name a line; --output is then a folder."""

    @property
    def has_folder(self) -> bool:
        """Pictures of a file of prompts go to a folder."""
        return self.file is not None

    def run(self) -> int:
        """Exit code 0 once every picture is saved, 1 where rows of a file could not be drawn."""
        if self.file is None:
            draw(self, self.prompt)
            return 0
        if self.parallel != "none":
            raise ValueError("--file divides its rows among the processes; leave out --parallel")
        if self.prompt is not None or self.num_images != 1:
            raise ValueError("--file brings its own prompts, one picture a line; leave out TEXT and -n")
        return draw_file(self, self.file)
