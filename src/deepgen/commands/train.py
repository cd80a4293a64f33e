"""`deepgen train`: run a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train with a named recipe."""

    recipe: Positional[Annotated[str, arg(metavar="RECIPE")]]
    """The recipe's name; a wrong one lists those there are."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="FOLDER")] = None
    """Where checkpoints and logs go. Default: runs/RECIPE."""
    resume: bool = False
    """Go on from the newest checkpoint in the output folder."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FIELD=VALUE")] = ()
    """Change a field of the recipe, such as optim.lr=1e-4; repeat the option for several."""

    def run(self) -> int:
        """Exit code 0 when the run has reached its last step."""
        overrides = _overrides(self.set)
        from deepgen.recipes import run

        output = self.output or Path("runs") / self.recipe
        run(self.recipe, output_dir=output, resume=self.resume, overrides=overrides)
        print(output)
        return 0


def _overrides(assignments: tuple[str, ...]) -> dict[str, str]:
    """`field=value` pairs as a dictionary."""
    wrong = [assignment for assignment in assignments if "=" not in assignment]
    if wrong:
        raise ValueError(f"--set {wrong[0]!r} is not FIELD=VALUE; try --set steps=100")
    return dict(assignment.split("=", 1) for assignment in assignments)
