"""A run's folder: one run at a time, its config, its log and its checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deepgen import user_files
from deepgen.training import changes
from deepgen.training.checkpoint_folders import checkpoints, latest_checkpoint, step_of

USER_FILES = "user_files"  # in a config.json: path and sha256 of the user's own files that the run executed


@dataclass
class RunRecord:
    """What a run's config.json says, and what it will say once the run is known to go on.

    Attributes:
        output_dir: the run's folder.
        config: the recipe.
        about: where it came from.
        written: the file's content when the run was opened; empty of a new run.
        accepts_changes: a change of what a step means is wanted.
        is_main: whether this process writes.
    """

    output_dir: Path
    config: Any
    about: Mapping[str, Any]
    written: Mapping[str, Any]
    accepts_changes: bool
    is_main: bool
    _changes: list[changes.RunChange] = field(default_factory=list)

    def compare(self, found: list[changes.RunChange]) -> None:
        """Print what has changed; ValueError where that changes what a step means and is not accepted."""
        changes.say(found, self.output_dir, is_main=self.is_main)
        changes.refuse(found, self.output_dir, is_accepted=self.accepts_changes)
        self._changes += found

    def user_files(self) -> dict[str, Any]:
        """Which files of the user's own were run; ValueError where one is not as the run began with it."""
        changed = user_files.changed(self.written.get(USER_FILES, ()))
        if changed and not self.accepts_changes:
            raise ValueError(
                f"{self.output_dir} began with another content of {', '.join(changed)}; go on with the file "
                "as it was, add --accept-changes, or begin another run with another --output"
            )
        rows = user_files.record()
        return {USER_FILES: rows} if rows else {}

    def complete(self, known: Mapping[str, Any], facts: Mapping[str, Any], step: int) -> None:
        """Compare what is known once the stage is built, and write all of it.

        Only now: a run that is refused leaves the record as it was, or a second try would find nothing
        changed.

        Args:
            known: such as the weights the run began with.
            facts: what it learns from, and with which versions.
            step: at which it goes on.
        """
        if self.written:
            self.compare(changes.fact_changes(self.written, facts))
        if not self.is_main:
            return
        if self.written:
            changes.say_unrecorded(self.written, facts, self.output_dir)
        history = list(self.written.get("history", ()))
        if self._changes:
            history.append({"step": step, "changes": [str(change) for change in self._changes]})
        more = {"history": history} if history else {}
        content = {"about": dict(self.about), **asdict(self.config), **known, "facts": dict(facts), **more}
        _write(self.output_dir, content)


@contextmanager
def open_run(
    output_dir: Path,
    config: Any,
    about: Mapping[str, Any] | None = None,
    *,
    resume: bool,
    accepts_changes: bool = False,
    is_main: bool = True,
) -> Iterator[RunRecord]:
    """Take the folder for this run and write a new run's config into it; only the main process does.

    Raises:
        FileExistsError: another process trains there, or an earlier run's checkpoints are there and
        `resume` is off.
        ValueError: `resume` is on and the run was of a config that this one cannot continue, or would
        continue
            with steps that mean something else.
        FileNotFoundError: `resume` is on and there is no checkpoint.
        OSError: the folder cannot be made or written to.
    """
    found = checkpoints(output_dir)
    if found and not resume:
        raise FileExistsError(
            f"{output_dir} holds a run at step {step_of(found[-1])}; "
            "go on with --resume, or choose another --output"
        )
    if resume and not found:
        try:
            latest_checkpoint(output_dir)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; start without --resume") from error
    record = RunRecord(
        output_dir, config, about or {}, read_run(output_dir) if resume else {}, accepts_changes, is_main
    )
    if resume:
        config.check_resume(record.written, output_dir)
        record.compare(changes.field_changes(record.written, config))
    if not is_main:
        yield record
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    with _locked(output_dir / ".lock"):
        if not resume:
            _write(output_dir, {"about": dict(record.about), **asdict(config)})
        yield record


def read_run(output_dir: Path) -> dict[str, Any]:
    """A run's config.json; empty where there is none.

    Raises:
        ValueError: it cannot be understood.
    """
    file = output_dir / "config.json"
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged ({error}); move it away, and what changed is not compared"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged; move it away, and what changed is not compared")
    return content


def _write(output_dir: Path, content: Mapping[str, Any]) -> None:
    """Beside its name first: a full disk or a kill leaves the record as it was."""
    file, unfinished = output_dir / "config.json", output_dir / f".config.json.{os.getpid()}"
    try:
        unfinished.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
        unfinished.replace(file)
    except OSError as error:
        raise OSError(f"cannot write {file}: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


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
