"""What is different from when a run was last at work: printed as a list before it goes on.

Every field of the recipe counts as part of what a step means, unless it is listed here as one of how a run is
carried out or of how far and how fast it goes; so a new field is asked about until somebody has thought of
it. What a step learns from - rows, prompts, rewards - is compared by content, wherever it lies.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

from deepgen._version import __version__
from deepgen.training.parallel import Processes

logger = logging.getLogger(__name__)

# How a run is carried out: a step's gradient is the same to within rounding.
_CARRIED_OUT = (
    *("log_every", "save_every", "keep", "num_threads", "device", "trackers", "max_skipped_steps"),
    *("sharding", "shards_frozen", "sums_once", "num_workers", "micro_batch_size", "rollout_batch_size"),
    *("is_checkpointing_activations", "is_compiled", "is_prompt_split", "cache", "pool_file"),
    *("validation", "benchmarks", "evaluation", "sheet_every", "sheet_groups", "panel"),
    *("preflight", "before_after"),
)
# How far and how fast it goes along that gradient.
_PACE = (
    *("num_steps", "optim.lr", "optim.muon_lr", "optim.warmup_steps", "optim.clip_norm"),
    *("optim.decay", "optim.decay_share", "optim.final_lr_share"),
)
_FREE = (*_CARRIED_OUT, *_PACE)
_FREE_FACTS = ("versions", "machine", "data.bad_share_limit")
_PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "bitsandbytes")
_ABSENT = object()


@dataclass(frozen=True)
class RunChange:
    """One thing that is different.

    Attributes:
        name: dotted field of the recipe, or of what a run learnt from.
        before, now: its values; None where it is not there.
        is_of_a_step: a step would mean something else than the steps before it.
        note: what else should be said.
    """

    name: str
    before: Any
    now: Any
    is_of_a_step: bool
    note: str = ""

    def __str__(self) -> str:
        """One line."""
        return f"{self.name}: {_text(self.before)} -> {_text(self.now)}{self.note}"


def field_changes(written: Mapping[str, Any], config: Any) -> list[RunChange]:
    """The recipe's fields against those in a run's config.json.

    Args:
        written: that file; empty where there is none.
        config: the recipe as it is now.
    """
    if not written:
        return []
    now, defaults = _flat(_plain(asdict(config))), _flat(_plain(asdict(type(config)())))
    fields = asdict(config)
    before = _flat({name: value for name, value in written.items() if name in fields})
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name, _ABSENT), now.get(name, _ABSENT)
        if _is_same(old, new) or _is_inside_absent(name, before, now):
            continue
        if old is _ABSENT or new is _ABSENT:  # a part that is off on the other side stands for its fields
            old, new = _whole(before, name, old), _whole(now, name, new)
        if old is _ABSENT and name.split(".")[0] not in written and new == defaults.get(name, _ABSENT):
            continue  # a field that this version has and the earlier one had not
        change = RunChange(name, _or_none(old), _or_none(new), is_of_a_step(name, config))
        if name in config.places and name in ("data", "prompts") and not _section(written, name):
            change = _unrecorded(change)
        if change is not None:
            found.append(change)
    return found


def is_of_a_step(name: str, config: Any) -> bool:
    """Whether a change of this field of the recipe changes what a step means."""
    if name == "micro_batch_size":  # where pads are visible, a sample's loss depends on its batch-mates
        return getattr(config, "padding", "") == "visible"
    return not _is_among(name, (*_FREE, *config.places)) and not (
        name.startswith("optim.groups.") and name.endswith(".lr")
    )


def fact_changes(written: Mapping[str, Any], facts: Mapping[str, Any]) -> list[RunChange]:
    """What a run learns from, and with which versions, against what its config.json says of before."""
    known = written.get("facts") or {}
    before = _flat({name: known[name] for name in facts if name in known})
    now = _flat({name: _plain(facts[name]) for name in facts if name in known})
    return [
        RunChange(name, before.get(name), now.get(name), not _is_among(name, _FREE_FACTS))
        for name in sorted({*before, *now})
        if not _is_same(before.get(name), now.get(name))
    ]


def say_unrecorded(written: Mapping[str, Any], facts: Mapping[str, Any], where: Path) -> None:
    """Say which facts the version that began the run did not write down."""
    unknown = [name for name in facts if name not in (written.get("facts") or {})]
    if unknown:
        names = ", ".join(unknown)
        logger.warning("%s did not write down its %s, so they are not compared", where, names)


def own_facts(processes: Processes) -> dict[str, Any]:
    """Versions, and what the run is carried out on."""
    versions = {"deepgen": __version__, "python": python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "machine": {"device": processes.device.type, "processes": processes.world_size},
    }


def say(changes: Sequence[RunChange], where: Path, *, is_main: bool = True) -> None:
    """Print the list, once."""
    if changes and is_main:
        lines = "".join(f"\n  {change}" for change in changes)
        logger.warning("changed since %s was last at work:%s", where, lines)


def refuse(changes: Iterable[RunChange], where: Path, *, is_accepted: bool) -> None:
    """ValueError where something is of a step and was not accepted."""
    of_a_step = [str(change) for change in changes if change.is_of_a_step]
    if of_a_step and not is_accepted:
        raise ValueError(
            f"{where} was trained with something else, and its next step would mean another thing than those "
            f"before: {'; '.join(of_a_step)}. Resume with what it had, or add --accept-changes"
        )


def _unrecorded(change: RunChange) -> RunChange | None:
    """A place that changed, of a run that has no fingerprint of what lay there."""
    old, new = (Path(str(value)).expanduser() for value in (change.before, change.now))
    if not old.is_file() or not new.is_file():
        note = " (what lay there was not written down then, and cannot be compared)"
        return RunChange(change.name, change.before, change.now, False, note)
    if old.read_bytes() == new.read_bytes():
        return None
    return RunChange(change.name, change.before, change.now, True)


def _section(written: Mapping[str, Any], name: str) -> Any:
    return (written.get("facts") or {}).get(name)


def _is_inside_absent(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the part that a field is of is off on one side: then the part itself is the change."""
    parts = name.split(".")
    parents = [".".join(parts[:n]) for n in range(1, len(parts))]
    return any(side.get(parent, _ABSENT) is None for parent in parents for side in (before, now))


def _is_among(name: str, listed: Sequence[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in listed)


def _plain(value: Any) -> Any:
    """As it comes back from a JSON file."""
    return json.loads(json.dumps(value, default=str))


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names of what is nested; lists of dictionaries by number."""
    if isinstance(values, list) and values and all(isinstance(value, dict) for value in values):
        values = {str(number): value for number, value in enumerate(values)}
    if not isinstance(values, dict) or (prefix and not values):
        return {prefix.removesuffix("."): values}
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.")
    return flat


def _is_same(one: Any, other: Any) -> bool:
    """Equal, or both NaN."""
    return one == other or (one != one and other != other)


def _whole(flat: Mapping[str, Any], name: str, value: Any) -> Any:
    """A value, or where there is none all fields below that name."""
    below = {one[len(name) + 1 :]: field for one, field in flat.items() if one.startswith(f"{name}.")}
    return below or value if value is _ABSENT else value


def _or_none(value: Any) -> Any:
    return None if value is _ABSENT else value


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}={_text(field)}" for name, field in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
