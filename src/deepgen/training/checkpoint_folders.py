"""Which folders of a run are checkpoints, and whether what lies in them is what was written.

A damaged file of weights can open without complaint, and training would go on with wrong numbers. So the
sum of every file is kept twice: in `state.json`, which also says the step, and in `SHA256SUMS`, which
`sha256sum -c` reads and which has the sum of `state.json` itself. A folder is

- no checkpoint, unless it is called `step-N`: archives, notes and folders that were set aside are passed
  over;
- half copied, where files are missing: passed over, and said;
- damaged, where a file is not what was written: refused by name.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from deepgen.checkpoints.spans import all_finite
from deepgen.checkpoints.sums import SUMS, hash_file, read_sums
from deepgen.models.errors import CheckpointError
from deepgen.training.parallel import Processes

logger = logging.getLogger(__name__)

STATE = "state.json"
USE_OLDER = "move the damaged folder away to use it"
PARTS = ("model", "ema", "optimizer")
_STEP = re.compile(r"step-(\d+)")
_DIVIDED = re.compile(r"(.+)-\d{5}-of-(\d{5})")


# --- listing


def step_of(folder: Path) -> int | None:
    """The step a folder's name says; None where it is not called `step-N`."""
    match = _STEP.fullmatch(folder.name)
    return int(match[1]) if match else None


def step_folders(output_dir: Path) -> list[Path]:
    """Folders called `step-N`, in the order of their steps, whole or not."""
    try:
        found = [folder for folder in output_dir.iterdir() if step_of(folder) is not None and folder.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda folder: (step_of(folder), folder.name))


def checkpoints(output_dir: Path) -> list[Path]:
    """Checkpoint folders of which no file is missing, oldest first; their content is not looked at."""
    return [folder for folder in step_folders(output_dir) if not missing_files(folder)]


def latest_checkpoint(output_dir: Path) -> Path:
    """The newest checkpoint of a run, or a FileNotFoundError."""
    found = checkpoints(output_dir)
    if not found:
        raise FileNotFoundError(f"no step-* checkpoint in {output_dir}{_listed(passed_over(output_dir))}")
    return found[-1]


def passed_over(output_dir: Path) -> dict[str, str]:
    """Names in a run's folder that look like checkpoints and are none, each with the reason."""
    found = {}
    if output_dir.is_dir():
        for path in sorted(output_dir.glob("step-*")):
            if step_of(path) is None or not path.is_dir():
                found[path.name] = "not a folder called step-N"
            elif missing := missing_files(path):
                found[path.name] = f"half copied, without {', '.join(missing[:3])}"
    return found


def missing_files(folder: Path) -> list[str]:
    """Files a checkpoint has to have and this folder lacks, as far as it says itself which there are."""
    expected = {STATE, *_sums_of_state(folder), *_listed_sums(folder)}
    present = {path.name for path in folder.glob("*.safetensors") if path.is_file()}
    for part in PARTS:
        names = {name for name in present if name == f"{part}.safetensors" or name.startswith(f"{part}-")}
        divided = [match for name in names if (match := _DIVIDED.fullmatch(Path(name).stem))]
        count = int(divided[0][2]) if divided else 0
        expected |= {f"{part}-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)}
        if not names:
            expected.add(f"{part}.safetensors")
    return sorted(name for name in expected if not (folder / name).is_file())


def _listed_sums(folder: Path) -> dict[str, str]:
    try:
        return read_sums(folder)
    except (CheckpointError, OSError):  # a damaged list: `check_checkpoint` says so
        return {}


def _sums_of_state(folder: Path) -> dict[str, str]:
    try:
        return read_state(folder).get("sha256", {})
    except (CheckpointError, OSError):  # damaged: `check_checkpoint` says so; missing: `missing_files` does
        return {}


def read_state(folder: Path) -> dict[str, Any]:
    """A checkpoint's state.json: `step`, and of newer ones `sha256`, `finite` and `skipped_steps`.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it cannot be understood.
    """
    file = folder / STATE
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    sums = state.get("sha256", {}) if isinstance(state, dict) else None
    is_step = isinstance(state, dict) and type(state.get("step")) is int and state["step"] >= 0
    if not is_step or not isinstance(sums, dict) or not all(isinstance(one, str) for one in sums.values()):
        raise CheckpointError(f"{file} is damaged: expected a step of 0 or more and sums of files")
    return state


# --- checking


def check_checkpoint(folder: Path, processes: Processes | None = None) -> None:
    """Compare a checkpoint's files with their sums; each process those that are its share.

    Checkpoints of older versions have no sums; that is said in the log, and their numbers are at least looked
    at: whatever is not finite is refused.

    Raises:
        FileNotFoundError: a file is missing.
        CheckpointError: a file was changed or damaged; its name and both sums are in the message.
    """
    error: Exception | None = None
    try:
        _check(folder, *((0, 1) if processes is None else (processes.rank, processes.world_size)))
    except (OSError, ValueError) as fault:
        error = fault
    if processes is not None and processes.any(error is not None) and error is None:
        error = CheckpointError(f"another process found a damaged file in {folder}; see its message")
    if error is not None:
        raise error


def _check(folder: Path, rank: int, world_size: int) -> None:
    listed, is_first = read_sums(folder), rank == 0
    state = read_state(folder)
    in_state = state.get("sha256", {})
    if not listed and is_first:
        of_what = "its state.json was not" if in_state else "its files were not"
        logger.warning("%s has no %s, so %s checked for damage", folder, SUMS, of_what)
    for name in sorted({*listed, *in_state})[rank::world_size]:
        _check_file(folder / name, {SUMS: listed.get(name), STATE: in_state.get(name)})
    step = step_of(folder)
    if step is not None and step != state["step"]:
        raise CheckpointError(f"{folder} says in {STATE} that it is of step {state['step']}; {_WAY_OUT}")
    weights = sorted(file for part in PARTS for file in folder.glob(f"{part}*.safetensors"))
    known = {**listed, **in_state}
    for file in weights:
        if known and file.name not in known:
            raise CheckpointError(f"{file} is no file of this checkpoint: {SUMS} does not list it; remove it")
    if not state.get("finite"):
        for file in weights[rank::world_size]:
            _check_finite(file)


_WAY_OUT = "copy the checkpoint again, or move the folder away and --resume goes on from the one before it"


def _check_file(file: Path, expected: dict[str, str | None]) -> None:
    """Against the sum of each list that has one."""
    lists = {name: digest for name, digest in expected.items() if digest is not None}
    if not file.is_file():
        raise FileNotFoundError(f"{file} is listed in {next(iter(lists))} and missing; {_WAY_OUT}")
    actual = hash_file(file)
    for name, digest in lists.items():
        if actual != digest:
            raise CheckpointError(
                f"{file} was changed or damaged: its sha256 is {actual}, {name} says {digest}; {_WAY_OUT}"
            )


def _check_finite(file: Path) -> None:
    try:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # not a dictionary
                if not all_finite(tensors.get_tensor(name)):
                    raise CheckpointError(
                        f"{file} holds NaN or infinity in {name}: that run had diverged; {_WAY_OUT}"
                    )
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged: {error}; {_WAY_OUT}") from error


# --- choosing


def whole_checkpoint(
    output_dir: Path,
    processes: Processes | None = None,
    *,
    takes_older: bool = False,
    advice: str = "go on from it with --resume auto",
) -> Path:
    """The newest checkpoint, once its files are found to be what was written.

    Args:
        output_dir: a run's folder.
        processes: who checks together; all of them call it.
        takes_older: where the newest is damaged take the newest whole one, and say so.
        advice: what to do where there is an older one that is whole.

    Raises:
        FileNotFoundError: there is no checkpoint.
        CheckpointError: the newest is damaged; the message names the file, and the newest whole one.
    """
    latest_checkpoint(output_dir)
    if processes is None or processes.is_main:
        for name, reason in passed_over(output_dir).items():
            logger.warning("%s is passed over: %s", output_dir / name, reason)
    problem: Exception | None = None
    for folder in reversed(checkpoints(output_dir)):
        found = _problem(folder, processes)
        if found is None and problem is not None and not takes_older:
            raise CheckpointError(f"{problem}. {folder} is whole: {advice}") from problem
        if found is None:
            return folder
        if takes_older and (processes is None or processes.is_main):
            logger.warning("%s", found)
        problem = problem or found
    assert problem is not None  # of the newest
    raise CheckpointError(f"{problem}. No checkpoint in {output_dir} is whole") from problem


def _problem(folder: Path, processes: Processes | None) -> Exception | None:
    try:
        check_checkpoint(folder, processes)
    except (OSError, ValueError) as error:
        return error
    return None


def set_aside(folders: Sequence[Path], why: str) -> list[Path]:
    """Give checkpoints names that are passed over, such as `step-N.damaged`; nothing is removed."""
    made = []
    for folder in folders:
        names = [f"{folder.name}.{why}", *(f"{folder.name}.{why}-{n}" for n in range(2, 1000))]
        target = next(folder.with_name(name) for name in names if not folder.with_name(name).exists())
        folder.rename(target)
        made.append(target)
    return made


def _listed(reasons: dict[str, str]) -> str:
    return "".join(f"; {name} is {reason}" for name, reason in reasons.items())
