"""`deepgen doctor`: what this machine is, and whether what it computes is right.

Runs on machines where something is broken, so nothing heavy is imported here: PyTorch is asked in a process
of its own, and one that is missing or broken is a finding in the report.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from deepgen.cli.outputs import print_report


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Say what this machine is and what is wrong with it: PyTorch and its devices, versions beside the tested
    ones, errors of each part of the model on each device in each number format beside what is expected, one
    small picture, and which --memory suits the 5B model. Ends with a block to paste into a bug report, which
    holds no secrets. Exit code 0 when nothing is wrong, 1 otherwise.
    """

    output: Annotated[Path, arg(aliases=["-o"], metavar="FILE.png")] = Path("doctor.png")
    """Where the picture goes; an existing file is replaced."""
    picture: bool = True
    """Draw a small picture."""
    json: bool = False
    """Print JSON, for programs."""

    def run(self) -> int:
        """Exit code 0 when nothing is wrong, 1 otherwise."""
        from deepgen.doctor.examination import examine
        from deepgen.doctor.report import DoctorReport

        if self.picture and self.output.suffix.lower() not in (".png", ".jpg", ".webp"):
            raise ValueError(f"--output {self.output} must end in .png, .jpg or .webp")

        def say(text: str) -> None:
            print(f"deepgen: doctor looks at {text}", file=sys.stderr)

        found = examine(self.output.absolute() if self.picture else None, say=say)
        report = DoctorReport.of(found)
        print_report(report, as_json=self.json)
        return 0 if report.ok else 1
