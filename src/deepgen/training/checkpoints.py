"""Checkpoints of a run: written beside their final name, in the background, and renamed when whole.

A folder `step-00001000` is therefore always complete, whenever the process was killed:
`model.safetensors` (what is trained), `ema.safetensors`, `optimizer.safetensors`, `state.json` with the
step and the sums of the others, and all their sums, `SHA256SUMS`. checkpoint_folders.py reads and checks
them. Where the model is divided among processes each writes its rows, `model-00001-of-00008.safetensors`
and so on, and says in the file's metadata which they are; they are read back whole, or as other pieces.
Nothing in it is a pickle.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deepgen.checkpoints.sums import hash_file, write_sums
from deepgen.models.errors import CheckpointError
from deepgen.moved import renamed
from deepgen.training.checkpoint_folders import PARTS, STATE, checkpoints, read_state
from deepgen.training.parallel import Processes
from deepgen.training.sharding import ShardSlice
from deepgen.training.state import Snapshot

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
        self._is_settled = True
        self._state: dict[str, Any] = {}  # of the checkpoint that is being written
        if self._is_main:
            for leftover in output_dir.glob(".step-*"):  # of a killed run; never complete
                shutil.rmtree(leftover, ignore_errors=True)

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write a snapshot; waits for the one before, and raises what that one met.

        Raises:
            OSError: the disk is full or the folder cannot be written. Older checkpoints are untouched.
        """
        self.wait()
        self._folder = self.output_dir / f"step-{snapshot.step:08d}"
        error: OSError | None = None
        if self._is_main:
            try:
                self._require_space(snapshot)
                self._begin()
            except OSError as problem:
                error = problem
        # All of them stop where one cannot write, and none writes before the folder is there.
        if self._processes is not None and self._processes.any(error is not None) and error is None:
            error = OSError(f"the main process could not begin {self._folder}; see its message")
        if error is not None:
            raise error
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
        self._finish_together()

    def close(self, *, settles: bool = True) -> None:
        """Wait for what this process writes, remove checkpoints too many unless told not to, and stop."""
        try:
            if self._processes is None:
                self.wait()
            if settles:
                self.settle()
        finally:
            self._pool.shutdown()

    @property
    def _unfinished(self) -> Path:
        return self._folder.with_name(f".{self._folder.name}")

    def _require_space(self, snapshot: Snapshot) -> None:
        writers = 1 if self._processes is None else self._processes.world_size
        tensors = [tensor for part in PARTS for tensor in getattr(snapshot, part).values()]
        needed = sum(tensor.nbytes for tensor in tensors) * writers + _SPARE_BYTES
        free = shutil.disk_usage(self.output_dir).free
        if free < needed:
            raise OSError(
                f"{self.output_dir.absolute()} has {free / 1e9:.2f} GB left and a checkpoint takes "
                f"{needed / 1e9:.2f} GB; free some space and go on with --resume (the checkpoints are whole)"
            )

    def _write(self, snapshot: Snapshot) -> None:
        """This process's files; alone, all of them, and the name."""
        with self._named_errors():
            self._write_files(snapshot)
            if self._processes is None:
                self._finish()

    def _finish_together(self) -> None:
        """All files are written: the main process names the folder, and all learn whether it could."""
        assert self._processes is not None
        error: OSError | None = None
        if self._is_main:
            try:
                with self._named_errors():
                    self._finish()
            except OSError as problem:
                error = problem
                shutil.rmtree(self._unfinished, ignore_errors=True)
        if self._processes.any(error is not None):
            raise error or OSError(f"the main process could not finish {self._folder}; see its message")

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """What a write meets becomes an OSError that names the checkpoint; alone, it leaves nothing."""
        is_done = False
        try:
            yield
            is_done = True
        except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
            reason = getattr(error, "strerror", None) or error
            raise OSError(
                f"cannot write the checkpoint {self._folder}: {reason}; older checkpoints are untouched"
            ) from error
        finally:
            if not is_done and self._processes is None:
                shutil.rmtree(self._unfinished, ignore_errors=True)

    def _write_files(self, snapshot: Snapshot) -> None:
        suffix = ""
        if self._processes is not None:
            suffix = f"-{self._processes.rank + 1:05d}-of-{self._processes.world_size:05d}"
        files = [self._unfinished / f"{part}{suffix}.safetensors" for part in PARTS]
        for part, file in zip(PARTS, files, strict=True):
            tensors, metadata = self._own(snapshot, getattr(snapshot, part))
            save_file(tensors, file, **metadata)
        for file in files:
            _flush(file)
        if self._is_main:
            self._state = {
                "step": snapshot.step,
                "skipped_steps": snapshot.num_skipped,
                "finite": snapshot.is_finite,
            }
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
        """The files are on the disk: list them and give the folder its name."""
        known: dict[str, str] = {}
        for own in sorted(self._unfinished.glob(f"{_OWN_SUMS}*")):
            known |= json.loads(own.read_text(encoding="utf-8"))
            own.unlink()
        state = self._unfinished / STATE
        state.write_text(json.dumps({**self._state, "sha256": known}, indent=1) + "\n", encoding="utf-8")
        _flush(state)
        write_sums(self._unfinished, known=known)
        _flush(self._unfinished)
        shutil.rmtree(self._folder, ignore_errors=True)  # half copied, or of a step that is trained again
        self._unfinished.rename(self._folder)
        _flush(self.output_dir)
        self._is_settled = False

    def settle(self) -> None:
        """Remove checkpoints too many; to be called once training got on from the newest.

        Until then an older one stays: what was saved last is finite, but the next loss may not be.
        """
        if not self._is_main or self._is_settled:
            return
        self._is_settled = True
        for old in checkpoints(self.output_dir)[: -self.keep]:
            hidden = old.with_name(f".{old.name}")  # a kill while it is removed leaves no half checkpoint
            shutil.rmtree(hidden, ignore_errors=True)
            shutil.rmtree(old.rename(hidden))


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
        CheckpointError: a file is damaged in a way that keeps it from opening.
    """
    state = read_state(folder)
    snapshot = Snapshot(state["step"], {}, {}, {}, pieces or {}, num_skipped=state.get("skipped_steps", 0))
    for part in PARTS:
        try:
            with ExitStack() as stack:
                files = [stack.enter_context(safe_open(file, "pt")) for file in _files(folder, part)]
                getattr(snapshot, part).update(_read(files, snapshot))
        except SafetensorError as error:
            raise CheckpointError(f"the {part} weights in {folder} are damaged: {error}") from error
    return snapshot


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


__getattr__ = renamed(
    __name__,
    {
        name: f"deepgen.training.checkpoint_folders.{name}"
        for name in ("check_checkpoint", "latest_checkpoint")
    },
)
