"""Expected and actual sha256 sums of a model's files.

The expected sum comes from the folder's own SHA256SUMS, from the name the Hub's cache gives a file, from what
the Hub's client noted when it downloaded, or from the table of the published files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepgen.checkpoints.layouts import NATIVE_SUFFIXES, Layout
from deepgen.checkpoints.published import recognise, revision_of
from deepgen.checkpoints.report import VerifyReport
from deepgen.checkpoints.sums import SUMS, hash_file, read_sums
from deepgen.checkpoints.tensors import LazyTensor
from deepgen.models.errors import CheckpointError
from deepgen.progress import progress_bar

_SHA256 = re.compile(r"^[0-9a-f]{64}$")
Opened = Mapping[Path, Mapping[str, LazyTensor]]  # weight files and their tensors


@dataclass(frozen=True)
class Expected:
    """A sum and where it came from. Not certain where another model may rightly have the same sizes."""

    sha256: str
    origin: str
    is_certain: bool = True


def check_hashes(layout: Layout, opened: Opened, report: VerifyReport, progress: bool = False) -> None:
    """Compare every file whose sum is known; differences, missing and unlisted files go to the report."""
    folder = layout.folder
    try:
        sums = _own_sums(layout)
    except (CheckpointError, OSError) as error:
        report.error(SUMS, str(error))
        sums = {}
    expected: dict[Path, Expected] = {}
    for name, digest in sums.items():
        if (folder / name).is_file():
            expected[folder / name] = Expected(digest, SUMS)
        else:
            report.error(name, f"is listed in {SUMS} but missing")
    if sums and layout.path.is_dir():
        _report_unlisted(layout, opened, sums, report)
    for file, tensors in opened.items():
        if file not in expected and (found := _expected(layout, file, tensors, report)):
            expected[file] = found
    broken = {
        problem.file for problem in report.problems if problem.severity == "error" and not problem.tensor
    }
    known = {report.name_of(file) for file in expected}
    expected = {file: wanted for file, wanted in expected.items() if report.name_of(file) not in broken}
    total = sum(file.stat().st_size for file in expected)
    with progress_bar(total, "hashing", "B", is_shown=progress) as bar:
        for file, wanted in expected.items():
            _compare(report.name_of(file), hash_file(file, bar.update), wanted, report)
    if unknown := [name for name in map(report.name_of, opened) if name not in {*known, *broken}]:
        report.unknown += unknown
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        report.notes.append(f"the right sum is not known of {', '.join(unknown[:5])}{more}")


def _own_sums(layout: Layout) -> dict[str, str]:
    """What the folder's SHA256SUMS says of this model; of a single file, its line alone."""
    sums = read_sums(layout.folder)
    if layout.path.is_dir():
        return sums
    return {name: digest for name, digest in sums.items() if layout.folder / name == layout.path}


def _report_unlisted(layout: Layout, opened: Opened, sums: Mapping[str, str], report: VerifyReport) -> None:
    """Weights that the list does not know: an error where they would be loaded, a warning elsewhere."""
    folder = layout.folder
    there = {file for file in folder.glob("*") if file.suffix in NATIVE_SUFFIXES}
    there |= {file for file in folder.glob("*/*") if file.suffix in NATIVE_SUFFIXES}
    for file in sorted(there | set(opened)):
        name = file.relative_to(folder).as_posix()
        if name not in sums and not name.startswith(".") and file.is_file():
            message = f"is not listed in {SUMS}; the folder was changed after it was saved"
            report.add("error" if file in opened else "warning", name, message)


def _expected(
    layout: Layout, file: Path, tensors: Mapping[str, LazyTensor], report: VerifyReport
) -> Expected | None:
    name = report.name_of(file)
    if file.is_symlink() and _SHA256.match(file.resolve().name):
        return Expected(file.resolve().name, "the Hub cache")  # it names large files by their hash
    noted = layout.folder / ".cache" / "huggingface" / "download" / f"{name}.metadata"
    if noted.is_file():
        lines = noted.read_text(encoding="utf-8", errors="replace").splitlines()
        if len(lines) > 1 and _SHA256.match(lines[1]):
            return Expected(lines[1], "the Hub")
    published = recognise([tensor.numel for tensor in tensors.values()])
    if published is None:
        return None
    revision = revision_of(layout.folder)
    is_other = revision is not None and revision != published.revision
    is_named = layout.kind == "diffusers-published" and name == published.name
    return Expected(published.sha256, published.origin, is_named and not is_other)


def _compare(name: str, actual: str, wanted: Expected, report: VerifyReport) -> None:
    if actual == wanted.sha256:
        report.hashes[name] = wanted.origin
    elif wanted.is_certain:
        message = f"sha256 is {actual}, {wanted.origin} says {wanted.sha256}; the file was changed or damaged"
        report.error(name, message)
    else:
        report.unknown.append(name)
        report.notes.append(
            f"{name} has the sizes of {wanted.origin}, and not its sha256 ({actual} instead of "
            f"{wanted.sha256}): it is of another revision, trained further, or damaged"
        )
