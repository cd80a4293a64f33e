"""`deepgen edit`: a picture changed as told, or made from several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from deepgen.commands.drawing import draw
from deepgen.commands.options import PictureOptions
from deepgen.commands.planned import show_plan


@dataclass(frozen=True, kw_only=True)
class Edit(PictureOptions):
    """Change a picture as an instruction says, or make one from several."""

    prompt: Positional[Annotated[str, arg(metavar="TEXT")]]
    """The instruction."""
    image: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FILE")] = ()
    """The picture to change; repeat the option to give several."""

    def run(self) -> int:
        """Exit code 0 once every picture is saved."""
        if self.plan:
            show_plan(self, self.image, is_edit=True)
            return 0
        if not self.image:
            raise ValueError(
                "nothing to edit: name the picture with --image FILE, or draw one with `deepgen generate`"
            )
        draw(self, self.prompt, self.image)
        return 0
