"""Going on with a run: which of its checkpoints, and the state it holds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from deepgen.models.errors import NotFiniteError
from deepgen.training.checkpoint_folders import (
    checkpoints,
    set_aside,
    step_folders,
    step_of,
    whole_checkpoint,
)
from deepgen.training.parallel import Processes

logger = logging.getLogger(__name__)

# "auto": from the newest whole checkpoint, or from the beginning where there is none at all.
Resume = bool | Literal["auto"]


def is_resumed(resume: Resume, output_dir: Path) -> bool:
    """Whether there is something to go on from; "auto" begins where there is no checkpoint folder at all."""
    if resume != "auto" or step_folders(output_dir):
        return bool(resume)
    logger.warning("%s holds no checkpoint: the run begins at its first step", output_dir)
    return False


def checkpoint_to_resume(output_dir: Path, processes: Processes, resume: Resume) -> Path:
    """The newest checkpoint, checked; with "auto" the newest whole one, and damaged newer ones are set aside.

    Raises:
        CheckpointError: it is damaged, or all of them are.
    """
    chosen = whole_checkpoint(output_dir, processes, takes_older=resume == "auto")
    newer = [folder for folder in checkpoints(output_dir) if (step_of(folder) or 0) > (step_of(chosen) or 0)]
    if newer and processes.is_main:
        names = _names(set_aside(newer, "damaged"))
        logger.warning("going on from %s; damaged and set aside: %s", chosen, names)
    processes.wait()
    return chosen


def with_way_out(error: NotFiniteError, output_dir: Path, processes: Processes) -> NotFiniteError:
    """The same, and how the run can go on.

    Checkpoints of the weights that gave no finite loss would give none again; they are set aside where
    there is an older one.
    """
    if error.is_everywhere:
        processes.wait()  # until the main one has written what it was writing
    found, said = checkpoints(output_dir), ""
    if error.weights_step is not None:
        of_them = [folder for folder in found if (step_of(folder) or 0) >= error.weights_step]
        if of_them and len(of_them) < len(found):
            found = found[: -len(of_them)]
            if processes.is_main:
                names = _names(set_aside(of_them, "diverged"))
                said = f". Set aside, because their weights give no finite loss: {names}"
    if not found:
        return NotFiniteError(f"{error}. Nothing was saved yet; start again with a smaller rate (--optim.lr)")
    return NotFiniteError(
        f"{error}{said}. {found[-1]} is the last good checkpoint; go on with --resume and a smaller rate "
        "(--optim.lr), or leave such steps out (--max-skipped-steps 10)"
    )


def _names(folders: Sequence[Path]) -> str:
    return ", ".join(folder.name for folder in folders)
