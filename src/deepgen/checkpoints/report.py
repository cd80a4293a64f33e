"""The report of `deepgen verify`, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One finding. Errors make the checkpoint unusable or doubtful; warnings can be as they should."""

    severity: Severity
    file: str
    message: str
    tensor: str | None = None

    def __str__(self) -> str:
        place = "" if self.message.startswith(self.file) else f"{self.file}: "
        return f"{self.severity}: {place}{f'{self.tensor}: ' if self.tensor else ''}{self.message}"


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
    unknown: list[str] = field(default_factory=list)  # files of weights whose right sum is not known
    folder: str = ""  # that the names of files are in

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not any(problem.severity == "error" for problem in self.problems)

    def add(self, severity: Severity, file: str, message: str, tensor: str | None = None) -> None:
        """One more finding."""
        self.problems.append(Problem(severity, file, message, tensor))

    def error(self, file: str, message: str, tensor: str | None = None) -> None:
        """One more error."""
        self.add("error", file, message, tensor)

    def name_of(self, file: Path) -> str:
        """A file by its name in the folder, or by its whole path where it lies elsewhere."""
        is_inside = bool(self.folder) and file.is_relative_to(self.folder)
        return file.relative_to(self.folder).as_posix() if is_inside else str(file)

    @contextmanager
    def findings(self, file: str, tensor: str | None = None) -> Iterator[None]:
        """Whatever a broken file makes a reader raise becomes a finding, of one tensor if it is named.

        Any exception: the libraries that read these files raise classes without a common base, and one file
        that none of us thought of must not hide what is known of the others.
        """
        try:
            yield
        except Exception as error:  # readers' errors have no common base, see above
            reason = " ".join(str(error).split()) or "no reason given"
            is_plain = isinstance(error, ValueError | OSError) and not isinstance(error, UnicodeError)
            message = reason if is_plain else f"cannot be read: {type(error).__name__}: {reason}"
            self.error(file, message, tensor)

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
