"""Checkpoints of a run: written beside their final name, in the background, and renamed when whole.

A folder `step-00001000` is therefore always complete, whenever the process was killed:
`model.safetensors` (what is trained), `ema.safetensors`, `optimizer.safetensors` and `state.json`.
Nothing in it is a pickle.
"""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from safetensors.torch import load_file, save_file

from deepgen.train.state import Snapshot

_PARTS = ("model", "ema", "optimizer")
_SPARE_BYTES = 2**20


class CheckpointWriter:
    """Writes snapshots into a run's folder, one at a time, while training goes on."""

    def __init__(self, output_dir: Path, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.output_dir, self.keep = output_dir, keep
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None
        for leftover in output_dir.glob(".step-*"):  # of a killed run; never complete
            shutil.rmtree(leftover, ignore_errors=True)

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write a snapshot; waits for the one before, and raises what that one met.

        Raises:
            OSError: the disk is full or the folder cannot be written. Older checkpoints are untouched.
        """
        self.wait()
        needed = sum(t.nbytes for part in _PARTS for t in getattr(snapshot, part).values()) + _SPARE_BYTES
        free = shutil.disk_usage(self.output_dir).free
        if free < needed:
            raise OSError(
                f"{self.output_dir.absolute()} has {free / 1e9:.2f} GB left and a checkpoint takes "
                f"{needed / 1e9:.2f} GB; free some space and go on with --resume (the checkpoints are whole)"
            )
        self._pending = self._pool.submit(self._write, snapshot)

    def wait(self) -> None:
        """Until nothing is being written; raises what the last write met."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait and stop."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def _write(self, snapshot: Snapshot) -> Path:
        folder = self.output_dir / f"step-{snapshot.step:08d}"
        unfinished = self.output_dir / f".{folder.name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            for part in _PARTS:
                save_file(getattr(snapshot, part), unfinished / f"{part}.safetensors")
            (unfinished / "state.json").write_text(json.dumps({"step": snapshot.step}) + "\n")
            for file in unfinished.iterdir():
                _flush(file)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise OSError(f"cannot write the checkpoint {folder}: {error.strerror or error}") from error
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
        _flush(self.output_dir)
        for old in checkpoints(self.output_dir)[: -self.keep]:
            shutil.rmtree(old)
        return folder


def _flush(path: Path) -> None:
    """To the disk itself: a rename must not become durable before what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_checkpoint_folder(folder: Path) -> Snapshot:
    """What `CheckpointWriter` wrote."""
    parts = {part: load_file(folder / f"{part}.safetensors") for part in _PARTS}
    return Snapshot(step=json.loads((folder / "state.json").read_text())["step"], **parts)


def checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoint folders, oldest first."""
    return sorted(output_dir.glob("step-*"))


def latest_checkpoint(output_dir: Path) -> Path:
    """The newest checkpoint of a run, or a FileNotFoundError."""
    found = checkpoints(output_dir)
    if not found:
        raise FileNotFoundError(f"no step-* checkpoint in {output_dir}")
    return found[-1]
