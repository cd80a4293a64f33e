"""Weights of a DeepSpeed folder, joined from the pieces its ranks wrote.

DeepSpeed's ZeRO divides what an optimizer keeps among the ranks of a run. The float32 weights of everything
trained lie in `*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt`, one file a rank; `param_shapes` in the model
states says which parameters, in which order:

    ZeRO-1, 2   each group of parameters is one flat row, cut into one piece a rank; padding at its end
    ZeRO-3      each parameter is cut by itself, into equal pieces whose last is padded

The 16-bit copies under `module` are rounded, and of a LoRA in the VLM there are none: the original leaves
every name with `lmm.` out of them. So the float32 weights are what a folder is read for, and where a copy
exists it must agree with them, which shows files of different runs in one folder.

Nothing is joined before it is asked for: a tensor knows its pieces and reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepgen.models.errors import CheckpointError
from deepgen.models.names import strip_wrappers
from deepgen.models.run_facts import differing_fact
from deepgen.models.tensors import LazyTensor, lazy_torch
from deepgen.models.torch_files import StoredTensor, open_tree
from deepgen.models.unpickle import MOST_DIMENSIONS, Inert, mapping

MODEL_STATES = "mp_rank_00_model_states.pt"
OPTIMIZER_FILE = re.compile(r"^((?:bf16_|fp16_)?zero_pp_rank_)(\d+)_mp_rank_00_optim_states\.pt$")
RANK_STATES_FILE = re.compile(r"^((?:bf16_|fp16_)?zero_pp_rank_)(\d+)_mp_rank_00_model_states\.pt$")
ALIGNMENT = 2  # DeepSpeed pads a flat row to a multiple of this and the number of ranks
SHOWN = 3  # weights that an error names
SHOWN_FILES = 16
MOST_RANKS = 2**20
LARGEST_SIZE = 2**40  # of one dimension
_BLOCK = 1 << 22  # numbers compared at a time


class IncompleteRunError(CheckpointError):
    """Files of a run are not there, so that weights it trained cannot be had."""


@dataclass(frozen=True)
class Piece:
    """`count` numbers of a parameter: from `first` on in a flat row of one rank's file."""

    row: StoredTensor
    first: int
    count: int


@dataclass
class ZeroFolder:
    """An opened folder: the tensors, and the pickled value beside them, for what it says of the run."""

    tensors: dict[str, LazyTensor]
    states: Mapping[Any, Any]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Run:
    """The files of one run, opened."""

    folder: Path
    states: list[Mapping[Any, Any]]  # model states: one, or with ZeRO-3 one a rank
    ranks: list[Mapping[Any, Any]]  # optimizer states by rank

    @property
    def groups(self) -> list[dict[str, tuple[int, ...]]]:
        return shapes_of(self.states[0])


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


def zero_files(folder: Path) -> list[Path]:
    """The files of a DeepSpeed folder that hold weights: model states first, then ranks in order."""
    ranks = [(int(m[2]), f) for f in folder.iterdir() if (m := OPTIMIZER_FILE.match(f.name))]
    states = [(int(m[2]), f) for f in folder.iterdir() if (m := RANK_STATES_FILE.match(f.name))]
    whole = [folder / MODEL_STATES] if (folder / MODEL_STATES).is_file() else []
    return [*whole, *(file for _, file in sorted(states)), *(file for _, file in sorted(ranks))]


def open_zero(folder: Path, copies: Mapping[str, LazyTensor] | None = None) -> ZeroFolder:
    """The tensors of a DeepSpeed folder: float32 weights where there are any, the rest as in `module`.

    Args:
        folder: `iter_N.pth/` or `global_stepN/`.
        copies: 16-bit weights saved beside the folder, where those under `module` are not wanted.

    Raises:
        CheckpointError: files are missing (each is named), broken, or of different runs.
    """
    states = _open_states(folder)
    copies = dict(copies) if copies is not None else _module(states[0])
    ranks, prefix = _optimizer_files(folder)
    world = _world_size(states[0], ranks, folder)
    needed = [name for group in shapes_of(states[0]) for name in group]
    if not ranks:
        return _without_partitions(folder, states[0], copies, needed, world, prefix)
    if absent := [rank for rank in range(world) if rank not in ranks]:
        names = _listed([f"{prefix}{rank}_mp_rank_00_optim_states.pt" for rank in absent])
        raise IncompleteRunError(
            f"{folder} is incomplete: it lacks {names} of {world} ranks, so {len(needed)} trained weights "
            "such as "
            f"{', '.join(needed[:SHOWN])} cannot be joined; copy the missing files from where the run was "
            "saved"
        )
    run = _Run(folder, states, [_optimizer(ranks[rank]) for rank in range(world)])
    _refuse_mixture(run, [ranks[rank] for rank in range(world)])
    masters = _joined(run, copies) | _frozen(run)
    result = {name: tensor for name, tensor in copies.items() if strip_wrappers(name) not in
              {strip_wrappers(known) for known in masters}}  # fmt: skip
    result = masters | result
    aliases = mapping(states[0].get("shared_params")) or {}
    for alias, source in aliases.items():
        if isinstance(source, str) and source in masters and isinstance(alias, str):
            result[alias] = replace(masters[source], name=alias)
    _sample(run, masters)
    return ZeroFolder(result, states[0])


# --- files


def _open_states(folder: Path) -> list[Mapping[Any, Any]]:
    whole = folder / MODEL_STATES
    if whole.is_file():
        return [_dictionary(whole)]
    found = {int(m[2]): f for f in folder.iterdir() if (m := RANK_STATES_FILE.match(f.name))}
    if not found:
        raise IncompleteRunError(f"{folder} is incomplete: it lacks {MODEL_STATES}")
    _refuse_absurd_ranks(folder, found)
    last = max(found)
    first = _dictionary(found[min(found)])
    world = _recorded_world(first) or last + 1
    if absent := [rank for rank in range(world) if rank not in found]:
        names = [found[last].name.replace(f"rank_{last}_", f"rank_{rank}_", 1) for rank in absent]
        raise IncompleteRunError(f"{folder} is incomplete: of {world} ranks it lacks {_listed(names)}")
    return [_dictionary(found[rank]) for rank in sorted(found)]


def _refuse_absurd_ranks(folder: Path, ranks: Iterable[int]) -> None:
    if (last := max(ranks, default=0)) >= MOST_RANKS:
        raise CheckpointError(f"{folder} has a file of rank {last}; the limit is {MOST_RANKS} ranks")


def _recorded_world(states: Mapping[Any, Any]) -> int | None:
    world = states.get("dp_world_size")
    return world if type(world) is int and 0 < world < MOST_RANKS else None


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_FILES} more" if len(names) > SHOWN_FILES else ""
    return ", ".join(names[:SHOWN_FILES]) + more


def _optimizer_files(folder: Path) -> tuple[dict[int, Path], str]:
    found = {file: match for file in folder.iterdir() if (match := OPTIMIZER_FILE.match(file.name))}
    prefixes = sorted({match[1] for match in found.values()})
    if len(prefixes) > 1:
        raise CheckpointError(f"{folder} mixes files of two runs: {prefixes[0]}* and {prefixes[1]}*")
    numbers = sorted(int(match[2]) for match in found.values())
    _refuse_absurd_ranks(folder, numbers)
    if len(found) > len(set(numbers)):  # such as rank_1 and rank_01
        twice = next(one for one, other in pairwise(numbers) if one == other)
        raise CheckpointError(f"{folder} has two files of rank {twice}; keep the one of this run")
    return {int(match[2]): file for file, match in found.items()}, prefixes[
        0
    ] if prefixes else "bf16_zero_pp_rank_"


def _world_size(states: Mapping[Any, Any], ranks: Mapping[int, Path], folder: Path) -> int:
    world = _recorded_world(states) or max(ranks, default=0) + 1
    if beyond := [file.name for rank, file in ranks.items() if rank >= world]:
        raise CheckpointError(
            f"{folder} mixes two runs: its model states are of {world} ranks, and there is {beyond[0]}"
        )
    return world


def _dictionary(file: Path) -> Mapping[Any, Any]:
    value = mapping(open_tree(file))
    if value is None:
        raise CheckpointError(f"{file} holds no dictionary, as DeepSpeed writes it")
    return value


def _optimizer(file: Path) -> Mapping[Any, Any]:
    whole = _dictionary(file)
    states = mapping(whole.get("optimizer_state_dict"))
    if states is None:
        raise CheckpointError(f"{file} holds no optimizer_state_dict, as DeepSpeed writes it")
    return {**states, "ds_config": whole.get("ds_config"), "ds_version": whole.get("ds_version")}


def _module(states: Mapping[Any, Any]) -> dict[str, LazyTensor]:
    module = mapping(states.get("module")) or {}
    return {
        str(name): lazy_torch(str(name), tensor)
        for name, tensor in module.items()
        if isinstance(tensor, StoredTensor)
    }


def _without_partitions(
    folder: Path,
    states: Mapping[Any, Any],
    copies: dict[str, LazyTensor],
    needed: Sequence[str],
    world: int,
    prefix: str,
) -> ZeroFolder:
    """A folder of model states alone: whole only if every trained weight has its 16-bit copy there."""
    held = {strip_wrappers(name) for name, tensor in copies.items() if tensor.numel}
    if lost := [name for name in needed if strip_wrappers(name) not in held]:
        raise IncompleteRunError(
            f"{folder} is incomplete: {len(lost)} trained weights such as {', '.join(lost[:SHOWN])} are "
            "only in "
            f"{prefix}0_mp_rank_00_optim_states.pt"
            + (f" to {prefix}{world - 1}_mp_rank_00_optim_states.pt" if world > 1 else "")
            + ", which are not there; copy them from where the run was saved"
        )
    notes = []
    if needed:
        kinds = sorted({str(copies[name].dtype).removeprefix("torch.") for name in needed if name in copies})
        notes.append(f"no optimizer states in {folder}: the {' and '.join(kinds)} copies of module are used")
    return ZeroFolder(copies, states, notes)


# --- joining


def _joined(run: _Run, copies: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    known = {strip_wrappers(name): tensor for name, tensor in copies.items()}
    if all("fp32_flat_groups" in rank for rank in run.ranks):
        pieces = _pieces_of_parameters(run)
    elif all("single_partition_of_fp32_groups" in rank for rank in run.ranks):
        pieces = _pieces_of_rows(run)
    else:
        keys = ", ".join(map(str, list(run.ranks[0])[:12]))
        raise CheckpointError(
            f"the optimizer states of {run.folder} hold neither single_partition_of_fp32_groups (ZeRO-1, "
            "2) nor "
            f"fp32_flat_groups (ZeRO-3) for every rank; they hold {keys}"
        )
    result = {}
    for name, shape in ((name, shape) for group in run.groups for name, shape in group.items()):
        parts = pieces[name]
        origin = ", ".join(dict.fromkeys(str(piece.row.path) for piece in parts)) or str(run.folder)
        dtype = parts[0].row.dtype if parts else torch.float32
        copy = known.get(strip_wrappers(name))
        if copy is not None and copy.shape != shape:
            copy = None  # ZeRO-3 leaves empty tensors in `module`
        read = partial(_read, name, shape, dtype, parts, copy, run.folder)
        result[name] = LazyTensor(name, shape, dtype, origin, read)
    return result


def _rows(rank: Mapping[Any, Any], key: str, run: _Run) -> list[StoredTensor]:
    rows = rank[key] if isinstance(rank[key], list) else []
    if not rows or not all(
        isinstance(row, StoredTensor) and len(row.shape) == 1 and row.is_contiguous for row in rows
    ):
        raise CheckpointError(f"{key} in the optimizer states of {run.folder} is not a list of flat tensors")
    return rows


def _cut(rows: Sequence[StoredTensor], first: int, count: int) -> list[Piece]:
    """`count` numbers from the `first` on, of rows laid end to end."""
    pieces = []
    for row in rows:
        taken = min(row.numel - first, count)
        if taken > 0 and first >= 0:
            pieces.append(Piece(row, first, taken))
            first, count = 0, count - taken
        else:
            first -= row.numel
        if not count:
            break
    return pieces


def _pieces_of_rows(run: _Run) -> dict[str, list[Piece]]:
    by_rank = [_rows(rank, "single_partition_of_fp32_groups", run) for rank in run.ranks]
    if any(len(rows) != len(run.groups) for rows in by_rank):
        raise CheckpointError(
            f"{run.folder} mixes files of two runs: param_shapes has {len(run.groups)} groups, the ranks "
            "hold "
            f"{sorted({len(rows) for rows in by_rank})}"
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


def _pieces_of_parameters(run: _Run) -> dict[str, list[Piece]]:
    by_rank = [_rows(rank, "fp32_flat_groups", run) for rank in run.ranks]
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


def _misfit(run: _Run, held: int, needed: int, what: str) -> CheckpointError:
    return CheckpointError(
        f"{run.folder} mixes files of two runs: {what} holds {held} numbers, param_shapes describes {needed}"
    )


def _frozen(run: _Run) -> dict[str, LazyTensor]:
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
            parts.append(Piece(row, 0, min(row.numel, left)))
            left -= parts[-1].count
        if left or not rows:
            raise CheckpointError(
                f"the frozen weight {name} of {run.folder} lacks {left} of {prod(shape)} numbers"
            )
        read = partial(_read, name, shape, rows[0].dtype, parts, None, run.folder)
        result[name] = LazyTensor(name, shape, rows[0].dtype, str(run.folder), read)
    return result


def _read(
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    pieces: Sequence[Piece],
    copy: LazyTensor | None,
    folder: Path,
) -> Tensor:
    flat = torch.empty(prod(shape), dtype=dtype)
    start = 0
    for piece in pieces:
        piece.row.read_into(flat[start : start + piece.count], piece.first)
        start += piece.count
    if start != flat.numel():
        raise CheckpointError(f"{folder} holds {start} of the {flat.numel()} numbers of {name}")
    if copy is not None and not _agree(flat, copy.read().reshape(-1)):
        raise CheckpointError(
            f"{folder} mixes files of two runs: {name} in {', '.join({p.row.path.name for p in pieces})} "
            "is not what "
            f"{copy.origin} holds of it"
        )
    return flat.reshape(shape)


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


# --- one run?


def _refuse_mixture(run: _Run, files: Sequence[Path]) -> None:
    for file, states in zip(files[1:], run.ranks[1:], strict=True):
        if found := differing_fact(run.ranks[0], states):
            what, first, second = found
            raise CheckpointError(
                f"{run.folder} mixes files of two runs: {what} is {first} in {files[0].name} and {second} in "
                f"{file.name}"
            )
    for rank, (file, states) in enumerate(zip(files, run.ranks, strict=True)):
        _refuse_wrong_rank(run, rank, file, states)


def _refuse_wrong_rank(run: _Run, rank: int, file: Path, states: Mapping[Any, Any]) -> None:
    """Compare the list of fragments a rank keeps (ZeRO-1, 2) with what lies on that rank."""
    recorded = states.get("param_slice_mappings")
    key = "single_partition_of_fp32_groups"
    if not isinstance(recorded, list) or not all(key in other for other in run.ranks):
        return
    by_rank = [_rows(other, key, run) for other in run.ranks]
    if any(len(rows) != len(run.groups) for rows in (recorded, *by_rank)):
        return  # other versions keep other lists; the sizes of the rows are checked in any case
    for number, (group, fragments) in enumerate(zip(run.groups, recorded, strict=True)):
        found = {str(name): _address(value) for name, value in (mapping(fragments) or {}).items()}
        before = sum(rows[number].numel for rows in by_rank[:rank])
        end, start, expected = before + by_rank[rank][number].numel, 0, {}
        for name, shape in group.items():
            first, last = max(start, before), min(start + prod(shape), end)
            if first < last:
                expected[name] = (first - before, last - first)
            start += prod(shape)
        if found and None not in found.values() and found != expected:
            name = next(name for name in [*found, *expected] if found.get(name) != expected.get(name))
            raise CheckpointError(
                f"{run.folder} mixes files: {file.name} is not of rank {rank} of this run, by where it "
                f"keeps {name}"
            )


def _address(value: Any) -> tuple[int, int] | None:
    state = mapping(value.state) if isinstance(value, Inert) else None
    pair = (state.get("start"), state.get("numel")) if state else (None, None)
    return pair if all(isinstance(number, int) for number in pair) else None  # type: ignore[return-value]


def _sample(run: _Run, masters: Mapping[str, LazyTensor]) -> None:
    """Read the smallest weight of each rank that has a copy: a mixture is found before loading starts."""
    smallest: dict[Path, LazyTensor] = {}
    for tensor in masters.values():
        parts = tensor.read.args[3] if isinstance(tensor.read, partial) else ()
        has_copy = isinstance(tensor.read, partial) and tensor.read.args[4] is not None
        for piece in parts if has_copy else ():
            known = smallest.get(piece.row.path)
            if known is None or tensor.numel < known.numel:
                smallest[piece.row.path] = tensor
    for tensor in smallest.values():
        tensor.read()
