"""Joining the weights that the ranks of a DeepSpeed (ZeRO) run divided among them.

    ZeRO-1, 2   each group of parameters is one flat row, cut into one piece a rank; padding at its end
    ZeRO-3      each parameter is cut by itself, into equal pieces whose last is padded

Nothing is joined before it is asked for: a weight knows its pieces and reads them. Where a 16-bit copy of it
was saved too, the two must agree, which shows files of different runs in one folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepgen.checkpoints.names import strip_wrappers
from deepgen.checkpoints.pickle_names import MOST_DIMENSIONS, mapping
from deepgen.checkpoints.tensors import LazyTensor
from deepgen.checkpoints.torch_files import StoredTensor
from deepgen.models.errors import CheckpointError
from deepgen.moved import renamed

ALIGNMENT = 2  # DeepSpeed pads a flat row to a multiple of this and the number of ranks
LARGEST_SIZE = 2**40  # of one dimension
_BLOCK = 1 << 22  # numbers compared at a time


@dataclass(frozen=True)
class ZeroPiece:
    """`count` numbers of a parameter: from `first` on in a flat row of one rank's file."""

    row: StoredTensor
    first: int
    count: int


@dataclass(frozen=True)
class DeepSpeedRun:
    """The files of one run, opened."""

    folder: Path
    states: list[Mapping[Any, Any]]  # model states: one, or with ZeRO-3 one a rank
    ranks: list[Mapping[Any, Any]]  # optimizer states by rank

    @property
    def groups(self) -> list[dict[str, tuple[int, ...]]]:
        return shapes_of(self.states[0])


@dataclass(frozen=True)
class JoinedWeight:
    """A weight that knows its pieces, and reads them when it is asked for.

    Attributes:
        name: as `param_shapes` has it.
        shape: of the whole.
        dtype: of the pieces.
        pieces: in the order of the numbers.
        folder: of the run.
        copy: the 16-bit weight of that name, where there is one; it must agree.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Sequence[ZeroPiece]
    folder: Path
    copy: LazyTensor | None = None

    @property
    def numel(self) -> int:
        return prod(self.shape)

    def lazy(self) -> LazyTensor:
        """The same as any tensor of a checkpoint."""
        origin = ", ".join(dict.fromkeys(str(piece.row.path) for piece in self.pieces)) or str(self.folder)
        return LazyTensor(self.name, self.shape, self.dtype, origin, self.read)

    def read(self) -> Tensor:
        """The whole weight. CheckpointError where numbers are missing, or the copy is of another run."""
        flat = torch.empty(self.numel, dtype=self.dtype)
        start = 0
        for piece in self.pieces:
            piece.row.read_into(flat[start : start + piece.count], piece.first)
            start += piece.count
        if start != flat.numel():
            raise CheckpointError(f"{self.folder} holds {start} of the {flat.numel()} numbers of {self.name}")
        if self.copy is not None and not _agree(flat, self.copy.read().reshape(-1)):
            files = ", ".join({piece.row.path.name for piece in self.pieces})
            raise CheckpointError(
                f"{self.folder} mixes files of two runs: {self.name} in {files} is not what "
                f"{self.copy.origin} holds of it"
            )
        return flat.reshape(self.shape)


def shapes_of(states: Mapping[Any, Any]) -> list[dict[str, tuple[int, ...]]]:
    """`param_shapes`: name -> shape of what was trained, by optimizer group, in the order of the rows."""
    recorded = states.get("param_shapes")
    groups = [mapping(group) for group in (recorded if isinstance(recorded, list) else [recorded])]
    return [_shapes(group) for group in groups if group]


def _shapes(group: Mapping[Any, Any]) -> dict[str, tuple[int, ...]]:
    for name, shape in group.items():
        is_shape = isinstance(shape, list | tuple) and len(shape) <= MOST_DIMENSIONS
        if not is_shape or not all(type(size) is int and 0 <= size < LARGEST_SIZE for size in shape):
            raise CheckpointError(f"the shape the run recorded for {str(name)[:200]} is no list of sizes")
    return {str(name): tuple(shape) for name, shape in group.items()}


def joined_weights(run: DeepSpeedRun, copies: Mapping[str, LazyTensor]) -> dict[str, JoinedWeight]:
    """Everything the run trained, by name.

    Raises:
        CheckpointError: the rows of the ranks are not those `param_shapes` describes.
    """
    known = {strip_wrappers(name): tensor for name, tensor in copies.items()}
    if all("fp32_flat_groups" in rank for rank in run.ranks):
        pieces = _pieces_of_parameters(run)
    elif all("single_partition_of_fp32_groups" in rank for rank in run.ranks):
        pieces = _pieces_of_rows(run)
    else:
        keys = ", ".join(map(str, list(run.ranks[0])[:12]))
        raise CheckpointError(
            f"the optimizer states of {run.folder} hold neither single_partition_of_fp32_groups (ZeRO-1, 2) "
            f"nor fp32_flat_groups (ZeRO-3) for every rank; they hold {keys}"
        )
    result = {}
    for name, shape in ((name, shape) for group in run.groups for name, shape in group.items()):
        parts = pieces[name]
        copy = known.get(strip_wrappers(name))
        if copy is not None and copy.shape != shape:
            copy = None  # ZeRO-3 leaves empty tensors in `module`
        dtype = parts[0].row.dtype if parts else torch.float32
        result[name] = JoinedWeight(name, shape, dtype, parts, run.folder, copy)
    return result


def flat_rows(rank: Mapping[Any, Any], key: str, run: DeepSpeedRun) -> list[StoredTensor]:
    rows = rank[key] if isinstance(rank[key], list) else []
    if not rows or not all(
        isinstance(row, StoredTensor) and len(row.shape) == 1 and row.is_contiguous for row in rows
    ):
        raise CheckpointError(f"{key} in the optimizer states of {run.folder} is not a list of flat tensors")
    return rows


def _cut(rows: Sequence[StoredTensor], first: int, count: int) -> list[ZeroPiece]:
    """`count` numbers from the `first` on, of rows laid end to end."""
    pieces = []
    for row in rows:
        taken = min(row.numel - first, count)
        if taken > 0 and first >= 0:
            pieces.append(ZeroPiece(row, first, taken))
            first, count = 0, count - taken
        else:
            first -= row.numel
        if not count:
            break
    return pieces


def _pieces_of_rows(run: DeepSpeedRun) -> dict[str, list[ZeroPiece]]:
    by_rank = [flat_rows(rank, "single_partition_of_fp32_groups", run) for rank in run.ranks]
    if any(len(rows) != len(run.groups) for rows in by_rank):
        raise CheckpointError(
            f"{run.folder} mixes files of two runs: param_shapes has {len(run.groups)} groups, the ranks "
            f"hold {sorted({len(rows) for rows in by_rank})}"
        )
    pieces = {}
    for number, group in enumerate(run.groups):
        rows = [rows[number] for rows in by_rank]
        held, needed = sum(row.numel for row in rows), sum(map(prod, group.values()))
        if not 0 <= held - needed < ALIGNMENT * len(rows):
            raise _misfit(run, held, needed, f"group {number}")
        start = 0
        for name, shape in group.items():
            pieces[name] = _cut(rows, start, prod(shape))
            start += prod(shape)
    return pieces


def _pieces_of_parameters(run: DeepSpeedRun) -> dict[str, list[ZeroPiece]]:
    by_rank = [flat_rows(rank, "fp32_flat_groups", run) for rank in run.ranks]
    world, start, pieces = len(by_rank), 0, {}
    for name, shape in ((name, shape) for group in run.groups for name, shape in group.items()):
        share, left, parts = -(-prod(shape) // world), prod(shape), []
        for rows in by_rank:
            parts += _cut(rows, start, min(share, left))
            left -= min(share, left)
        start += share
        pieces[name] = parts
    for rows in by_rank:
        held = sum(row.numel for row in rows)
        if not 0 <= held - start < ALIGNMENT * world * len(rows):
            raise _misfit(run, held, start, f"the rank of {rows[0].path.name}")
    return pieces


def _misfit(run: DeepSpeedRun, held: int, needed: int, what: str) -> CheckpointError:
    return CheckpointError(
        f"{run.folder} mixes files of two runs: {what} holds {held} numbers, param_shapes describes {needed}"
    )


def frozen_weights(run: DeepSpeedRun) -> dict[str, JoinedWeight]:
    """Weights that were not trained: whole in one file, with ZeRO-3 a fragment a rank."""
    shapes = _shapes(mapping(run.states[0].get("frozen_param_shapes")) or {})
    fragments = [mapping(states.get("frozen_param_fragments")) or {} for states in run.states]
    result = {}
    for name, shape in shapes.items():
        rows = [part[name] for part in fragments if name in part]
        left, parts = prod(shape), []
        for row in rows:
            if not (isinstance(row, StoredTensor) and row.is_contiguous):
                raise CheckpointError(f"the frozen weight {name} of {run.folder} is no tensor")
            parts.append(ZeroPiece(row, 0, min(row.numel, left)))
            left -= parts[-1].count
        if left or not rows:
            raise CheckpointError(
                f"the frozen weight {name} of {run.folder} lacks {left} of {prod(shape)} numbers"
            )
        result[name] = JoinedWeight(name, shape, rows[0].dtype, parts, run.folder)
    return result


def _agree(master: Tensor, copy: Tensor) -> bool:
    """Whether the copy is the rounded master; one step of the coarser format apart counts as rounding."""
    if not copy.dtype.is_floating_point:
        return torch.equal(master, copy)
    limits = torch.finfo(copy.dtype)
    return all(
        torch.allclose(
            a.to(copy.dtype).float(), b.float(), rtol=2 * limits.eps, atol=limits.tiny, equal_nan=True
        )
        for a, b in zip(master.split(_BLOCK), copy.split(_BLOCK), strict=True)
    )


__getattr__ = renamed(
    __name__,
    {
        "Piece": "deepgen.checkpoints.zero_pieces.ZeroPiece",
        "ZeroRun": "deepgen.checkpoints.zero_pieces.DeepSpeedRun",
    },
)
