"""Checkpoints of a run: written beside their final name, in the background, and renamed when whole.

A folder `step-00001000` is therefore always complete, whenever the process was killed:
`model.safetensors` (what is trained), `ema.safetensors`, `optimizer.safetensors`, `state.json`, and their
sums, `SHA256SUMS`.
Where the model is divided among processes each writes its rows, `model-00001-of-00008.safetensors` and so
on, and says in the file's metadata which they are; they are read back whole, or as other pieces.
Nothing in it is a pickle.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from deepgen.checkpoints.sums import SUMS, hash_file, read_sums, write_sums
from deepgen.training.parallel import Processes
from deepgen.training.sharding import ShardSlice
from deepgen.training.state import Snapshot

logger = logging.getLogger(__name__)

_PARTS = ("model", "ema", "optimizer")
_SPARE_BYTES = 2**20
_OWN_SUMS = ".sums"  # what each process says of its files, until they become SHA256SUMS


class CheckpointWriter:
    """Writes snapshots into a run's folder, one at a time, while training goes on.

    Args:
        output_dir: the run's folder; one for all processes.
        keep: how many checkpoints stay.
        processes: who writes together, where the model is divided; all of them then call every method but
            `close` at the same steps. None writes alone.
    """

    def __init__(self, output_dir: Path, keep: int = 2, processes: Processes | None = None):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.output_dir, self.keep = output_dir, keep
        self._processes = processes
        self._is_main = processes is None or processes.is_main
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._folder = output_dir
        if self._is_main:
            for leftover in output_dir.glob(".step-*"):  # of a killed run; never complete
                shutil.rmtree(leftover, ignore_errors=True)

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write a snapshot; waits for the one before, and raises what that one met.

        Raises:
            OSError: the disk is full or the folder cannot be written. Older checkpoints are untouched.
        """
        self.wait()
        if self._is_main:
            self._require_space(snapshot)
        self._folder = self.output_dir / f"step-{snapshot.step:08d}"
        if self._processes is not None:
            if self._is_main:
                self._begin()
            self._processes.wait()  # until the folder is there
        self._pending = self._pool.submit(self._write, snapshot)

    def publish(self) -> None:
        """Where processes write together: name the checkpoint once all of them are done; does not wait."""
        if self._processes is None or self._pending is None:
            return
        if not self._processes.any(not self._pending.done()):
            self.wait()

    def wait(self) -> None:
        """Until nothing is being written; raises what the last write met."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if self._processes is None:
            pending.result()
            return
        error = pending.exception()
        if self._processes.any(error is not None):
            if self._is_main:
                shutil.rmtree(self._unfinished, ignore_errors=True)
            raise error or OSError(f"another process could not write its part of {self._folder}; see its log")
        if self._is_main:
            self._finish()
        self._processes.wait()

    def close(self) -> None:
        """Wait for what this process writes, and stop."""
        try:
            if self._processes is None:
                self.wait()
        finally:
            self._pool.shutdown()

    @property
    def _unfinished(self) -> Path:
        return self._folder.with_name(f".{self._folder.name}")

    def _require_space(self, snapshot: Snapshot) -> None:
        writers = 1 if self._processes is None else self._processes.world_size
        tensors = [tensor for part in _PARTS for tensor in getattr(snapshot, part).values()]
        needed = sum(tensor.nbytes for tensor in tensors) * writers + _SPARE_BYTES
        free = shutil.disk_usage(self.output_dir).free
        if free < needed:
            raise OSError(
                f"{self.output_dir.absolute()} has {free / 1e9:.2f} GB left and a checkpoint takes "
                f"{needed / 1e9:.2f} GB; free some space and go on with --resume (the checkpoints are whole)"
            )

    def _write(self, snapshot: Snapshot) -> None:
        """This process's files; alone, all of them, and the name."""
        if self._processes is None:
            self._begin()
        try:
            self._write_files(snapshot)
        except OSError as error:
            if self._processes is None:
                shutil.rmtree(self._unfinished, ignore_errors=True)
            reason = error.strerror or error
            raise OSError(f"cannot write the checkpoint {self._folder}: {reason}") from error
        if self._processes is None:
            self._finish()

    def _write_files(self, snapshot: Snapshot) -> None:
        suffix = ""
        if self._processes is not None:
            suffix = f"-{self._processes.rank + 1:05d}-of-{self._processes.world_size:05d}"
        files = [self._unfinished / f"{part}{suffix}.safetensors" for part in _PARTS]
        for part, file in zip(_PARTS, files, strict=True):
            tensors, metadata = self._own(snapshot, getattr(snapshot, part))
            save_file(tensors, file, **metadata)
        if self._is_main:
            files.append(self._unfinished / "state.json")
            files[-1].write_text(json.dumps({"step": snapshot.step}) + "\n")
        for file in files:
            _flush(file)
        sums = {file.name: hash_file(file) for file in files}
        with (self._unfinished / f"{_OWN_SUMS}{suffix}").open("w", encoding="utf-8") as own:
            json.dump(sums, own)

    def _own(
        self, snapshot: Snapshot, tensors: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, str]]]:
        """What this process writes, and the metadata that says of which rows: "first/all"."""
        if self._processes is None:
            return tensors, {}
        own, rows = {}, {}
        for name, tensor in tensors.items():
            piece = snapshot.piece(name, tensor)
            if piece is not None and len(tensor):
                own[name] = tensor
                rows[name] = f"{piece.rows.start}/{piece.shape[0]}"
            elif piece is None and self._is_main:
                own[name] = tensor
        return own, {"metadata": rows} if rows else {}

    def _begin(self) -> None:
        shutil.rmtree(self._unfinished, ignore_errors=True)
        self._unfinished.mkdir(parents=True)

    def _finish(self) -> None:
        """The files are on the disk: list them, give the folder its name, and remove checkpoints too many."""
        known: dict[str, str] = {}
        for own in sorted(self._unfinished.glob(f"{_OWN_SUMS}*")):
            known |= json.loads(own.read_text(encoding="utf-8"))
            own.unlink()
        write_sums(self._unfinished, known=known)
        _flush(self._unfinished)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._unfinished.rename(self._folder)
        _flush(self.output_dir)
        for old in checkpoints(self.output_dir)[: -self.keep]:
            shutil.rmtree(old)


def _flush(path: Path) -> None:
    """To the disk itself: a rename must not become durable before what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_checkpoint_folder(folder: Path, pieces: Mapping[str, ShardSlice] | None = None) -> Snapshot:
    """What `CheckpointWriter` wrote, by however many processes.

    Args:
        folder: a complete checkpoint.
        pieces: parameters to read these rows of, with their averages and moments; others are read whole.

    Raises:
        FileNotFoundError: files are missing, of a folder that was copied.
        ValueError: a parameter has another shape than its piece.
    """
    snapshot = Snapshot(json.loads((folder / "state.json").read_text())["step"], {}, {}, {}, pieces or {})
    for part in _PARTS:
        with ExitStack() as stack:
            files = [stack.enter_context(safe_open(file, "pt")) for file in _files(folder, part)]
            getattr(snapshot, part).update(_read(files, snapshot))
    return snapshot


def check_checkpoint(folder: Path, processes: Processes | None = None) -> None:
    """Compare a checkpoint's files with its SHA256SUMS; each process those that are its share.

    A damaged file can open without complaint, and training would go on with wrong weights. Checkpoints of
    older versions have no such list; that is said in the log.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file was changed or damaged; its name and both sums are in the message.
    """
    sums = read_sums(folder)
    if not sums:
        logger.warning("%s has no %s, so its files were not checked for damage", folder, SUMS)
    rank, world_size = (0, 1) if processes is None else (processes.rank, processes.world_size)
    error: Exception | None = None
    try:
        for name in sorted(sums)[rank::world_size]:
            _check_file(folder / name, sums[name])
    except (OSError, ValueError) as fault:
        error = fault
    if processes is not None and processes.any(error is not None) and error is None:
        error = ValueError(f"another process found a damaged file in {folder}; see its message")
    if error is not None:
        raise error


def _check_file(file: Path, expected: str) -> None:
    way_out = "copy the checkpoint again, or move the folder away and --resume goes on from the one before it"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is listed in {SUMS} and missing; {way_out}")
    if (actual := hash_file(file)) != expected:
        raise ValueError(
            f"{file} was changed or damaged: its sha256 is {actual}, {SUMS} says {expected}; {way_out}"
        )


def _files(folder: Path, part: str) -> list[Path]:
    """The one file of a part, or one of each process that wrote it."""
    files = sorted(folder.glob(f"{part}-*-of-*.safetensors"))
    if not files:
        return [folder / f"{part}.safetensors"]
    expected = int(files[0].stem.rpartition("-")[2])
    if len(files) != expected:
        raise FileNotFoundError(
            f"{folder} holds {len(files)} of {expected} files of {part!r}; copy the whole folder"
        )
    return files


def _read(files: Sequence[Any], snapshot: Snapshot) -> dict[str, Tensor]:
    """The tensors of a part: whole, or those rows of them that `snapshot.pieces` names."""
    sources: dict[str, list[tuple[int, Any]]] = defaultdict(list)  # first row and rows of each file
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        rows = file.metadata() or {}
        for name in file.keys():  # noqa: SIM118  # not a dictionary
            part = file.get_slice(name)
            first, total = map(int, rows[name].split("/")) if name in rows else (0, None)
            sources[name].append((first, part if part.get_shape() else file.get_tensor(name)))
            shape = tuple(part.get_shape())
            shapes[name] = shape if total is None else (total, *shape[1:])
    tensors = {}
    for name, shape in shapes.items():
        piece = snapshot.piece(name, torch.empty(shape, device="meta"))
        if piece is not None and piece.shape != shape:
            raise ValueError(
                f"the checkpoint's {name} has shape {shape}, this run's {piece.shape}; "
                "resume with the config it was trained with"
            )
        if not shape:
            tensors[name] = sources[name][0][1]
        else:
            tensors[name] = _rows(sources[name], range(shape[0]) if piece is None else piece.rows)
    return tensors


def _rows(sources: Sequence[tuple[int, Any]], wanted: range) -> Tensor:
    """Rows of a tensor whose rows are spread over files."""
    found = []
    for first, part in sorted(sources, key=lambda source: source[0]):
        start = max(wanted.start - first, 0)
        stop = min(wanted.stop - first, part.get_shape()[0])
        if start < stop:
            found.append(part[start:stop])
    if len(found) == 1:
        return found[0]
    return torch.cat(found) if found else sources[0][1][:1][:0]


def checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoint folders, oldest first."""
    return sorted(output_dir.glob("step-*"))


def latest_checkpoint(output_dir: Path) -> Path:
    """The newest checkpoint of a run, or a FileNotFoundError."""
    found = checkpoints(output_dir)
    if not found:
        raise FileNotFoundError(f"no step-* checkpoint in {output_dir}")
    return found[-1]
