"""A run's folder: one run at a time, its config, its log and its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepgen import user_files
from deepgen.training.checkpoints import checkpoints

USER_FILES = "user_files"  # in a config.json: path and sha256 of the user's own files that the run executed


@contextmanager
def open_run(
    output_dir: Path,
    config: Any,
    about: Mapping[str, Any] | None = None,
    *,
    resume: bool,
    is_main: bool = True,
) -> Iterator[None]:
    """Take the folder for this run and write the config into it; only the main process does.

    Raises:
        FileExistsError: another process trains there, or an earlier run's checkpoints are there and
        `resume` is off.
        ValueError: `resume` is on and the run was of a config that this one cannot continue.
        FileNotFoundError: `resume` is on and there is no checkpoint.
        OSError: the folder cannot be made or written to.
    """
    found = checkpoints(output_dir)
    if found and not resume:
        raise FileExistsError(
            f"{output_dir} holds a run at step {int(found[-1].name.removeprefix('step-'))}; "
            "go on with --resume, or choose another --output"
        )
    if resume and not found:
        raise FileNotFoundError(f"no step-* checkpoint in {output_dir}; start without --resume")
    if resume:
        config.check_resume(read_run(output_dir), output_dir)
    if not is_main:
        yield
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    with _locked(output_dir / ".lock"):
        earlier = read_run(output_dir) if resume else {}
        kept = {USER_FILES: earlier[USER_FILES]} if USER_FILES in earlier else {}
        _write(output_dir, {"about": dict(about or {}), **asdict(config), **kept})
        yield


def read_run(output_dir: Path) -> dict[str, Any]:
    """A run's config.json; empty where there is none."""
    file = output_dir / "config.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def add_to_record(output_dir: Path, facts: Mapping[str, Any]) -> None:
    """Write more into a run's config.json, such as what is known only once its model is there."""
    if facts:
        _write(output_dir, {**read_run(output_dir), **facts})


def record_user_files(output_dir: Path) -> None:
    """Write which files of the user's own were run; ValueError where one is not as the run began with it."""
    if changed := user_files.changed(read_run(output_dir).get(USER_FILES, ())):
        raise ValueError(
            f"{output_dir} began with another content of {', '.join(changed)}; go on with the file as it "
            "was, or begin another run with another --output"
        )
    if rows := user_files.record():
        add_to_record(output_dir, {USER_FILES: rows})


def _write(output_dir: Path, content: Mapping[str, Any]) -> None:
    # under another name first: the other processes of the run may be reading it
    part = output_dir / ".config.json.part"
    part.write_text(json.dumps(content, indent=1, default=str) + "\n")
    part.replace(output_dir / "config.json")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Held while the process lives, however it ends; where the system has no file locks, not at all."""
    with path.open("w") as file:
        try:
            import fcntl
        except ModuleNotFoundError:  # Windows
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileExistsError(
                f"another process is training in {path.parent}; wait for it, or choose another --output"
            ) from error
        yield
