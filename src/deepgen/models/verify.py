"""`deepgen verify`: is this checkpoint whole?

Looked at, in this order: can every file be opened and is it as long as its header says; are its tensors
numbers (no NaN or infinity) and not zeros, as an interrupted download leaves them; do the keys fit the model;
is the sha256 the expected one. The expected hash comes from a SHA256SUMS file of our own, from what the Hub
client noted when it downloaded, or from the table of the published files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from deepgen.models import names
from deepgen.models.checkpoint import ADAPTER_DIR, SHOWN, LoadReport, compare, open_native, read_checkpoint
from deepgen.models.layouts import NOT_WEIGHTS, HubOptions, Layout, detect, resolve, weight_files
from deepgen.models.parts import WEIGHTED
from deepgen.models.published import PUBLISHED
from deepgen.models.tensors import CheckpointError, LazyTensor, open_file
from deepgen.models.zero_partitions import zero_files

Severity = Literal["error", "warning"]
SUMS = "SHA256SUMS"

# Zero when training starts, by design: the output projectors of a new connector and the B factor of a new
# LoRA.
_ZERO_AT_START = re.compile(
    r"(^|\.)(projector_[23]|pooled_projector|context_projector)\.|\.lora_B\.|\.lora_embedding_B"
)
LEAST_TAIL = 4096  # bytes of zeros at the end of a file or tensor that are no coincidence: one page
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True)
class Problem:
    """One finding. Errors make the checkpoint unusable or doubtful; warnings can be as they should."""

    severity: Severity
    file: str
    message: str
    tensor: str | None = None

    def __str__(self) -> str:
        place = self.file + (f": {self.tensor}" if self.tensor else "")
        return f"{self.severity}: {place}: {self.message}"


@dataclass
class VerifyReport:
    """Findings, and what they are based on."""

    path: str
    kind: str
    problems: list[Problem] = field(default_factory=list)
    files: int = 0
    tensors: int = 0
    nbytes: int = 0
    hashes: dict[str, str] = field(default_factory=dict)  # file -> where the hash it matches came from
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not any(problem.severity == "error" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for json."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        errors = sum(problem.severity == "error" for problem in self.problems)
        head = (
            f"{self.path} ({self.kind}): {self.files} files, {self.tensors} tensors, "
            f"{self.nbytes / 1e9:.2f} GB; "
            f"{errors} errors, {len(self.problems) - errors} warnings, {len(self.hashes)} hashes match"
        )
        return "\n".join([head, *map(str, self.problems), *(f"note: {note}" for note in self.notes)])


def verify(
    path: str | Path,
    *,
    scan: bool = True,
    hashes: bool = True,
    connector_config: dict[str, Any] | None = None,
    hub: HubOptions | None = None,
    progress: bool = False,
) -> VerifyReport:
    """Examine a checkpoint of any layout.

    Args:
        path: folder, file or hub id.
        scan: read every tensor for zeros, NaN and infinity.
        hashes: compute sha256 where an expected one is known.
        connector_config: what tensor shapes cannot tell, such as `num_attention_heads`.
        hub: how hub ids are downloaded.
        progress: show a bar.

    Raises:
        FileNotFoundError: nothing is at `path`. What is there but broken is in the report.
    """
    place = resolve(path, hub, ignore=NOT_WEIGHTS)
    try:
        layout = detect(place, hub)
    except (CheckpointError, FileNotFoundError) as error:
        return VerifyReport(str(path), "unknown", [Problem("error", str(place), str(error))])
    report = VerifyReport(str(path), layout.kind)
    opened = _open_all(layout, report)
    if scan:
        total = sum(tensor.nbytes for tensors in opened.values() for tensor in tensors.values())
        with tqdm(total=total, unit="B", unit_scale=True, disable=not progress, desc="reading") as bar:
            for file, tensors in opened.items():
                _scan_file(_relative(file, layout), tensors, report, bar)
    if report.ok or all(problem.tensor for problem in report.problems):
        _check_keys(layout, connector_config, report)
    else:
        report.notes.append("keys were not compared with the model, because files are broken or missing")
    if hashes:
        _check_hashes(layout, opened, report, progress)
    return report


def _relative(file: Path, layout: Layout) -> str:
    return file.relative_to(layout.folder).as_posix() if file.is_relative_to(layout.folder) else str(file)


# --- files


def _open_all(layout: Layout, report: VerifyReport) -> dict[Path, dict[str, LazyTensor]]:
    opened = {}
    if layout.zero_dir is not None:
        return _open_joined(layout, report)
    for file in _files(layout, report):
        report.files += 1
        report.nbytes += file.stat().st_size
        try:
            opened[file] = open_file(file)
            report.tensors += len(opened[file])
        except CheckpointError as error:
            report.problems.append(Problem("error", _relative(file, layout), str(error)))
    return opened


def _open_joined(layout: Layout, report: VerifyReport) -> dict[Path, dict[str, LazyTensor]]:
    """The files of a DeepSpeed run, whose tensors lie across them: all are told under the first."""
    files = layout.files if layout.kind == "deepspeed-dir" else (*layout.files, *zero_files(layout.zero_dir))
    report.files = len(files)
    report.nbytes = sum(file.stat().st_size for file in files)
    try:
        tensors = open_native(layout)[0]
    except (CheckpointError, OSError) as error:
        report.problems.append(Problem("error", str(layout.zero_dir), str(error)))
        return {}
    report.tensors = len(tensors)
    return {files[0]: tensors, **{file: {} for file in files[1:]}}


def _files(layout: Layout, report: VerifyReport) -> Iterator[Path]:
    if layout.is_native:
        yield from layout.files
        return
    for part in (*WEIGHTED, ADAPTER_DIR):
        if (layout.path / part).is_dir():
            try:
                yield from weight_files(layout.path / part)
            except (FileNotFoundError, CheckpointError) as error:
                report.problems.append(Problem("error", part, str(error)))


# --- numbers


def _scan_file(file: str, tensors: dict[str, LazyTensor], report: VerifyReport, bar: Any) -> None:
    tail = 0  # zero bytes the file ends with, as far as read; zeros by design do not count
    for name, tensor in tensors.items():
        try:
            value = tensor.read()
        except (CheckpointError, OSError) as error:
            report.problems.append(Problem("error", file, str(error), name))
            continue
        bar.update(tensor.nbytes)
        if value.is_floating_point() and not _all_finite(value):
            report.problems.append(Problem("error", file, "has values that are NaN or infinite", name))
        zeros = _zero_tail(value)
        is_zero = bool(value.numel()) and zeros == tensor.nbytes
        tail = tail + zeros if is_zero else zeros
        if is_zero and not name.endswith("bias"):
            expected = _ZERO_AT_START.search(name) is not None
            message = "is all zeros" + (", as before training" if expected else "")
            report.problems.append(Problem("warning" if expected else "error", file, message, name))
        if is_zero and (name.endswith("bias") or _ZERO_AT_START.search(name)):
            tail = 0
        elif not is_zero and zeros >= LEAST_TAIL and zeros * 16 >= tensor.nbytes:
            report.problems.append(Problem("warning", file, f"its last {zeros} bytes are zeros", name))
    if tail >= LEAST_TAIL:
        message = f"ends with {tail} zero bytes, as an interrupted download does; download it again"
        report.problems.append(Problem("error", file, message))


def _all_finite(value: Tensor) -> bool:
    # in pieces: isfinite makes a copy of what it looks at
    return all(bool(torch.isfinite(piece.float()).all()) for piece in value.reshape(-1).split(1 << 22))


def _zero_tail(value: Tensor) -> int:
    """How many bytes at the end of the tensor are zero."""
    data = value.reshape(-1).view(torch.uint8)
    end = data.numel()
    while end:
        start = max(0, end - (1 << 18))
        nonzero = data[start:end].nonzero()
        if len(nonzero):
            return data.numel() - start - int(nonzero[-1]) - 1
        end = start
    return data.numel()


# --- keys


def _check_keys(layout: Layout, connector_config: dict[str, Any] | None, report: VerifyReport) -> None:
    try:
        checkpoint = read_checkpoint(layout, connector_config, shapes_only=True)
        for part in checkpoint.parts.values():
            if part.config is None:
                report.notes.append(
                    f"{part.name}: {len(part.tensors)} tensors, not compared: its config is in a base model"
                )
            else:
                compare(part, checkpoint.report)
    except (CheckpointError, FileNotFoundError) as error:
        report.problems.append(Problem("error", str(layout.path), str(error)))
        return
    _report_keys(layout, checkpoint.report, report)
    report.notes += checkpoint.report.notes
    report.notes += [
        f"no {part} here: it comes from a base model" for part in WEIGHTED if part not in checkpoint.parts
    ]
    if checkpoint.lora:
        report.notes.append(f"the VLM has a LoRA on {len(checkpoint.lora)} modules")
    elif layout.is_native and "vlm" not in checkpoint.parts:
        report.notes.append("no VLM LoRA here")


def _report_keys(layout: Layout, found: LoadReport, report: VerifyReport) -> None:
    faults = {"missing key": found.missing, "foreign key": found.unexpected, "wrong shape": found.mismatched}
    for fault, keys in faults.items():
        for key in keys[:SHOWN]:
            report.problems.append(Problem("error", str(layout.path), fault, key))
        if len(keys) > SHOWN:
            report.problems.append(Problem("error", str(layout.path), f"{fault}: {len(keys) - SHOWN} more"))
    for key, reason in found.ignored.items():
        if reason != names.UNUSED_HEAD:
            report.notes.append(f"{key} is not used: {reason}")


# --- hashes


def _check_hashes(
    layout: Layout, opened: dict[Path, dict[str, LazyTensor]], report: VerifyReport, progress: bool
) -> None:
    sums = _read_sums(layout.folder / SUMS)
    expected = {}
    for file, tensors in opened.items():
        if found := _expected_hash(_relative(file, layout), file, layout, tensors, sums):
            expected[file] = found
    for absent in sorted(set(sums) - {_relative(file, layout) for file in opened}):
        if not (layout.folder / absent).is_file():
            report.problems.append(Problem("error", absent, f"is listed in {SUMS} but missing"))
    for file, (digest, origin) in tqdm(expected.items(), disable=not progress, desc="hashing", unit="file"):
        actual = _hash(file)
        name = _relative(file, layout)
        if actual == digest:
            report.hashes[name] = origin
        else:
            message = f"sha256 is {actual}, {origin} says {digest}; the file was changed or damaged"
            report.problems.append(Problem("error", name, message))


def _hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _expected_hash(
    name: str, file: Path, layout: Layout, tensors: dict[str, LazyTensor], sums: dict[str, str]
) -> tuple[str, str] | None:
    if name in sums:
        return sums[name], SUMS
    if file.is_symlink() and _SHA256.match(file.resolve().name):
        return file.resolve().name, "the Hub cache"  # it names large files by their hash
    noted = layout.folder / ".cache" / "huggingface" / "download" / f"{name}.metadata"
    if noted.is_file():
        lines = noted.read_text(encoding="utf-8").splitlines()
        if len(lines) > 1 and _SHA256.match(lines[1]):
            return lines[1], "the Hub"
    if layout.kind == "diffusers-published" and name in PUBLISHED:
        count, elements, digest = PUBLISHED[name]
        if (count, elements) == (len(tensors), sum(tensor.numel for tensor in tensors.values())):
            return digest, "the published revision 85c2ed2"
    return None


def _read_sums(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line[1].lstrip("*").strip(): line[0].lower() for line in lines if len(line) == 2}
