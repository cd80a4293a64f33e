"""Weights of a DeepSpeed folder, joined from the pieces its ranks wrote.

DeepSpeed's ZeRO divides what an optimizer keeps among the ranks of a run. The float32 weights of everything
trained lie in `*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt`, one file a rank; `param_shapes` in the model
states says which parameters, in which order; `zero_pieces.py` has how they were cut.

The 16-bit copies under `module` are rounded, and of a LoRA in the VLM there are none: the original leaves
every name with `lmm.` out of them. So the float32 weights are what a folder is read for, and where a copy
exists it must agree with them, which shows files of different runs in one folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from deepgen.checkpoints.names import strip_wrappers
from deepgen.checkpoints.pickle_names import Inert, mapping
from deepgen.checkpoints.run_facts import differing_fact
from deepgen.checkpoints.tensors import LazyTensor, lazy_torch
from deepgen.checkpoints.torch_files import StoredTensor, open_tree
from deepgen.checkpoints.zero_pieces import (
    DeepSpeedRun,
    JoinedWeight,
    flat_rows,
    frozen_weights,
    joined_weights,
    shapes_of,
)
from deepgen.models.errors import CheckpointError

MODEL_STATES = "mp_rank_00_model_states.pt"
OPTIMIZER_FILE = re.compile(r"^((?:bf16_|fp16_)?zero_pp_rank_)(\d+)_mp_rank_00_optim_states\.pt$")
RANK_STATES_FILE = re.compile(r"^((?:bf16_|fp16_)?zero_pp_rank_)(\d+)_mp_rank_00_model_states\.pt$")
SHOWN = 3  # weights that an error names
SHOWN_FILES = 16
MOST_RANKS = 2**20


class IncompleteRunError(CheckpointError):
    """Files of a run are not there, so that weights it trained cannot be had."""


@dataclass
class ZeroFolder:
    """An opened folder: the tensors, and the pickled value beside them, for what it says of the run."""

    tensors: dict[str, LazyTensor]
    states: Mapping[Any, Any]
    notes: list[str] = field(default_factory=list)


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
            f"such as {', '.join(needed[:SHOWN])} cannot be joined; copy the missing files from where the "
            "run was saved"
        )
    run = DeepSpeedRun(folder, states, [_optimizer(ranks[rank]) for rank in range(world)])
    _refuse_mixture(run, [ranks[rank] for rank in range(world)])
    trained = joined_weights(run, copies)
    masters = {name: weight.lazy() for name, weight in (trained | frozen_weights(run)).items()}
    joined = {strip_wrappers(name) for name in masters}
    result = masters | {name: copy for name, copy in copies.items() if strip_wrappers(name) not in joined}
    aliases = mapping(states[0].get("shared_params")) or {}
    for alias, source in aliases.items():
        if isinstance(source, str) and source in masters and isinstance(alias, str):
            result[alias] = replace(masters[source], name=alias)
    _read_smallest(trained.values())
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
    """The optimizer states by rank, and what their names begin with."""
    found = {file: match for file in folder.iterdir() if (match := OPTIMIZER_FILE.match(file.name))}
    prefixes = sorted({match[1] for match in found.values()})
    if len(prefixes) > 1:
        raise CheckpointError(f"{folder} mixes files of two runs: {prefixes[0]}* and {prefixes[1]}*")
    numbers = sorted(int(match[2]) for match in found.values())
    _refuse_absurd_ranks(folder, numbers)
    if len(found) > len(set(numbers)):  # such as rank_1 and rank_01
        twice = next(one for one, other in pairwise(numbers) if one == other)
        raise CheckpointError(f"{folder} has two files of rank {twice}; keep the one of this run")
    ranks = {int(match[2]): file for file, match in found.items()}
    return ranks, prefixes[0] if prefixes else "bf16_zero_pp_rank_"


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
        files = f"{prefix}0_mp_rank_00_optim_states.pt"
        if world > 1:
            files += f" to {prefix}{world - 1}_mp_rank_00_optim_states.pt"
        raise IncompleteRunError(
            f"{folder} is incomplete: {len(lost)} trained weights such as {', '.join(lost[:SHOWN])} are "
            f"only in {files}, which are not there; copy them from where the run was saved"
        )
    notes = []
    if needed:
        kinds = sorted({str(copies[name].dtype).removeprefix("torch.") for name in needed if name in copies})
        notes.append(f"no optimizer states in {folder}: the {' and '.join(kinds)} copies of module are used")
    return ZeroFolder(copies, states, notes)


# --- one run?


def _refuse_mixture(run: DeepSpeedRun, files: Sequence[Path]) -> None:
    for file, states in zip(files[1:], run.ranks[1:], strict=True):
        if found := differing_fact(run.ranks[0], states):
            what, first, second = found
            raise CheckpointError(
                f"{run.folder} mixes files of two runs: {what} is {first} in {files[0].name} and {second} in "
                f"{file.name}"
            )
    for rank, (file, states) in enumerate(zip(files, run.ranks, strict=True)):
        _refuse_wrong_rank(run, rank, file, states)


def _refuse_wrong_rank(run: DeepSpeedRun, rank: int, file: Path, states: Mapping[Any, Any]) -> None:
    """Compare the list of fragments a rank keeps (ZeRO-1, 2) with what lies on that rank."""
    recorded = states.get("param_slice_mappings")
    key = "single_partition_of_fp32_groups"
    if not isinstance(recorded, list) or not all(key in other for other in run.ranks):
        return
    by_rank = [flat_rows(other, key, run) for other in run.ranks]
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


def _read_smallest(trained: Iterable[JoinedWeight]) -> None:
    """Read the smallest weight of each rank that has a copy: a mixture is found before loading starts."""
    smallest: dict[Path, JoinedWeight] = {}
    for weight in trained:
        for piece in weight.pieces if weight.copy is not None else ():
            known = smallest.get(piece.row.path)
            if known is None or weight.numel < known.numel:
                smallest[piece.row.path] = weight
    for weight in smallest.values():
        weight.read()
