"""The doctor's report: for people, for programs, and a block to paste into a bug report.

The block and the JSON leave this machine, so paths lose the home folder, and values of variables that hold
keys or tokens are taken out wherever a message repeats them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepgen._version import __version__
from deepgen.doctor.examination import FORMATS, Examination
from deepgen.doctor.findings import GB, Finding, findings

_SECRET = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL)", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@]+@")  # user and password of an address
_SHOWN = 60  # characters of a name


def redacted(text: str, environment: Mapping[str, str] = os.environ, home: Path | None = None) -> str:
    """A text without secrets, and with ~ for the home folder."""
    for name, value in environment.items():
        if _SECRET.search(name) and len(value) >= 6:
            text = text.replace(value, f"[${name}]")
    text = _IN_ADDRESS.sub("[...]@", text)
    folder = str(home or Path("~").expanduser())
    return text if folder in ("/", "~", "") else text.replace(folder, "~")


@dataclass(frozen=True)
class DoctorReport:
    """An examination with its findings."""

    found: Examination
    findings: list[Finding]

    @classmethod
    def of(cls, found: Examination) -> DoctorReport:
        """With what follows from it."""
        return cls(found, findings(found))

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not any(one.level == "problem" for one in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON, without secrets."""
        found = self.found
        return _cleaned(
            {
                "ok": self.ok,
                "deepgen": __version__,
                "findings": [asdict(one) for one in self.findings],
                "machine": asdict(found.machine),
                "torch": found.torch,
                "packages": [asdict(one) for one in found.packages],
                "measured": found.measured,
                "memory": found.memory,
                "picture": found.picture,
                "deaths": [asdict(one) for one in found.deaths],
            }
        )

    def __str__(self) -> str:
        sections = [
            ("This machine", list(_machine(self.found))),
            ("Packages, and the versions that were tested", list(_packages(self.found))),
            ("Errors of each part beside what rounding makes of it", list(_numbers(self.found))),
            ("A picture", list(_picture(self.found))),
            ("Memory for the 5B model", list(_memory(self.found))),
            ("Findings", [str(one) for one in self.findings] or ["nothing is wrong"]),
        ]
        blocks = ["\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in sections if lines]
        # Only the block leaves the machine: a command to type needs its whole path.
        read_here = redacted("\n\n".join(blocks), home=Path("/"))
        return "\n\n".join([read_here, "To paste into a bug report:", redacted("\n".join(self.block()))])

    def block(self) -> Iterator[str]:
        """What a bug report needs, in few lines of Markdown."""
        found = self.found
        installed = [one for one in found.packages if one.version]
        yield "```"
        yield f"deepgen {__version__}: {'nothing is wrong' if self.ok else 'deepgen doctor found problems'}"
        yield ", ".join(f"{one.name} {one.version}" for one in installed if not one.extra)
        if extras := [f"{one.name} {one.version}" for one in installed if one.extra]:
            yield f"extras: {', '.join(extras)}"
        for line in [*_machine(found), *_short_numbers(found), *_picture(found), *_memory(found)]:
            yield " ".join(line.split())
        for one in self.findings:
            yield f"{one.level}: {one.what}"
        yield "```"


def _cleaned(value: Any) -> Any:
    """JSON without secrets, and without NaN, which it has no word for."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _cleaned(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(one) for one in value]
    return value


def _gb(count: int) -> str:
    return f"{count / GB:.1f}"


def _machine(found: Examination) -> Iterator[str]:
    machine, torch = found.machine, found.torch
    yield f"system      {machine.system}, Python {machine.python}"
    yield f"processor   {machine.processor}"
    if machine.memory_bytes:
        yield f"main memory {_gb(machine.memory_bytes)} GB, {_gb(machine.free_memory_bytes)} free"
    if machine.nvidia:
        yield f"driver      NVIDIA {machine.nvidia_driver}: {', '.join(machine.nvidia)}"
    if machine.amd:
        yield f"driver      AMD: {', '.join(machine.amd)}"
    if torch is not None:
        yield from _torch(torch)
    if machine.variables:
        yield f"variables   {', '.join(f'{name}={value}' for name, value in machine.variables.items())}"


def _torch(torch: Mapping[str, Any]) -> Iterator[str]:
    build = "CPU"
    if torch["hip"] or torch["cuda"]:
        build = f"ROCm {torch['hip']}" if torch["hip"] else f"CUDA {torch['cuda']}"
    elif torch["has_mps"]:
        build = "MPS"
    kernels = f", cuDNN {torch['cudnn']}" if torch["cudnn"] else ""
    yield f"PyTorch     {torch['version']}, built for {build}{kernels}, {torch['threads']} threads"
    for device in torch["devices"]:
        formats = "float32, float16" + (", bfloat16" if device["has_bfloat16"] else "; bfloat16 is emulated")
        memory = f"{_gb(device['total_bytes'])} GB, {_gb(device['free_bytes'])} free"
        architecture = f", {device['architecture']}" if device["architecture"] else ""
        yield f"{device['name']:11} {device['hardware'][:_SHOWN]}{architecture}: {memory}; {formats}"
        if device["name"].startswith("cuda") and any(torch["tf32"].values()):
            uses = [name for name, is_used in torch["tf32"].items() if is_used]
            yield f"            float32 {' and '.join(uses)} may be rounded to TF32"


def _packages(found: Examination) -> Iterator[str]:
    for one in found.packages:
        if one.version is None and (one.extra is not None or not one.is_used):
            continue
        notes = [f"needs {one.least}"] if one.version is None or one.is_old else []
        notes += ["cannot be imported"] if one.error else []
        if one.tested and one.version and one.tested != one.version.partition("+")[0]:
            notes.append(f"tested {one.tested}")
        extra = f" ({one.extra})" if one.extra else "" if one.is_used else " (not needed)"
        yield f"{one.name + extra:32} {one.version or 'missing':14} {'; '.join(notes)}".rstrip()
    absent = [one.name for one in found.packages if one.version is None and one.extra is not None]
    if absent:
        yield f"not installed, of extras: {', '.join(absent)}"


def _numbers(found: Examination) -> Iterator[str]:
    """A table for each device: a row for each part, error and expected error of each format."""
    for device in dict.fromkeys(one["device"] for one in found.measured):
        rows: dict[str, dict[str, dict[str, Any]]] = {}
        for one in found.measured:
            if one["device"] == device:
                rows.setdefault(one["part"], {})[one["format"]] = one
        yield f"{device:18}" + "".join(f"{name:>10}{'expected':>10}{'':7}" for name in FORMATS)
        for part, cells in rows.items():
            yield (f"{part:18}" + "".join(_cell(cells.get(name)) for name in FORMATS)).rstrip()
        seconds = sum(one["seconds"] for one in found.measured if one["device"] == device)
        yield f"in {seconds:.1f} s"


def _cell(one: dict[str, Any] | None) -> str:
    if one is None:
        return f"{'-':>10}{'':17}"
    if one["error"] is None:
        return f"{one['state'] if one['state'] != 'wrong' else 'NaN':>10}{'':17}"
    mark = "" if one["state"] == "right" else " WRONG"
    return f"{one['error']:>10.1e}{one['expected']:>10.1e}{mark:7}"


def _short_numbers(found: Examination) -> Iterator[str]:
    """Per device and format the part that is furthest beyond what is expected."""
    together: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in found.measured:
        together.setdefault((one["device"], one["format"]), []).append(one)
    for (device, name), parts in together.items():
        known = [one for one in parts if one["error"] is not None]
        others = [f"{one['part']} {one['state']}" for one in parts if one["error"] is None]
        worst = max(known, key=lambda one: one["error"] / one["limit"], default=None)
        told = ""
        if worst is not None:
            told = (
                f": worst {worst['part']} {worst['error']:.1e} (expected {worst['expected']:.1e}, at most "
                f"{worst['limit']:.1e})"
            )
        count = sum(one["state"] == "right" for one in parts)
        yield f"{device} {name}: {count} of {len(parts)} parts right{told}" + "".join(
            f"; {x}" for x in others
        )


def _picture(found: Examination) -> Iterator[str]:
    picture = found.picture
    if picture is None:
        return
    if picture["is_right"] is None:
        yield f"could not be drawn on {picture['device']} in {picture['format']}: {picture['message']}"
        return
    verdict = "a cat, as asked" if picture["is_right"] else "not the cat that was asked for"
    where = picture["written"] or f"not written: {picture['message']}"
    drawn = f"drawn on {picture['device']} in {picture['format']} in {picture['seconds']:.1f} s"
    yield f"{drawn}: {verdict}; {where}"


def _memory(found: Examination) -> Iterator[str]:
    for one in found.memory:
        free = f"{one['device']}: {_gb(one['free_bytes'])} GB free"
        if one["plan"] is None:
            yield f"{free}, the least it needs is {_gb(one['least_bytes'])} GB: it does not fit"
            continue
        waits = f", {_gb(one['waiting_bytes'])} GB wait in main memory" if one["waiting_bytes"] else ""
        option = one["option"] or "no option is needed (--memory auto chooses the same)"
        yield f"{free}: {option}; {one['plan']}, which needs {_gb(one['needed_bytes'])} GB{waits}"
