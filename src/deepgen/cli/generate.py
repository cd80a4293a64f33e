"""`deepgen generate`: draw a picture from text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from deepgen.cli.drawing import draw
from deepgen.cli.options import ImageOptions
from deepgen.cli.planned import show_plan
from deepgen.cli.prompt_file import draw_file


@dataclass(frozen=True, kw_only=True)
class Generate(ImageOptions):
    """Draw pictures from a description."""

    prompt: Positional[Annotated[str | None, arg(metavar="TEXT")]] = None
    """What to draw; "" draws from no words at all."""
    file: Annotated[Path | None, arg(metavar="FILE")] = None
    """Instead of TEXT: a .txt file with a prompt a line, or a .jsonl file; --output is then a folder."""
    format: Literal["png", "jpg", "webp"] = "png"
    """Of pictures of --file whose row gives no name."""

    @property
    def has_folder(self) -> bool:
        """Pictures of a file of prompts go to a folder."""
        return self.file is not None

    def run(self) -> int:
        """Exit code 0 once every picture is saved, 1 where rows of a file could not be drawn."""
        if self.plan:
            show_plan(self)
            return 0
        if self.file is None:
            if self.format != "png":
                raise ValueError(
                    f"--format is for --file; name the picture: -o {self.output.stem}.{self.format}"
                )
            draw(self, self.prompt)
            return 0
        if self.parallel != "none":
            raise ValueError("--file divides its rows among the processes; leave out --parallel")
        if self.prompt is not None:
            raise ValueError("--file brings its own prompts; leave out TEXT")
        return draw_file(self, self.file, f".{self.format}")
