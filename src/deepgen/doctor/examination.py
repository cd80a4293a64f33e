"""What the doctor found out, and how it goes about it: facts without PyTorch first, then in worker processes.

A part of the examination that cannot be made is left out, and the findings say why; nothing here raises for
what may be wrong with a machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deepgen.checkpoints.file_hash import hash_file
from deepgen.checkpoints.sums import read_sums
from deepgen.doctor import machine, packages
from deepgen.doctor.machine import MachineFacts
from deepgen.doctor.packages import PackageFacts
from deepgen.doctor.worker import Answer, Job, RunJobs, run_in_process
from deepgen.embedded import embedded_folder

MODEL = embedded_folder("tiny")
FORMATS = ("float32", "bfloat16", "float16")
ARCHITECTURE = "deepgen-1.0"


@dataclass(frozen=True, kw_only=True)
class Death:
    """A worker process that did not end well: in which job, at which step, and why."""

    job: str
    reason: str
    begin: str = ""
    device: str = ""
    format: str = ""


@dataclass(kw_only=True)
class Examination:
    """Everything that is known.

    Attributes:
        machine: see there.
        packages: every known package.
        model_faults: what is wrong with the files of the embedded model.
        torch: `TorchFacts` as a dictionary; None where PyTorch could not be asked.
        measured: every part on every device in every number format.
        memory: a `MemorySuggestion` as a dictionary for each device.
        picture: a `DrawnPicture` as a dictionary; None where none was tried.
        deaths: processes that were killed, hung or raised.
    """

    machine: MachineFacts
    packages: list[PackageFacts]
    model_faults: list[str] = field(default_factory=list)
    torch: dict[str, Any] | None = None
    measured: list[dict[str, Any]] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    picture: dict[str, Any] | None = None
    deaths: list[Death] = field(default_factory=list)

    @property
    def devices(self) -> list[dict[str, Any]]:
        """That PyTorch finds, the one `--device auto` takes first."""
        return [] if self.torch is None else list(self.torch["devices"])

    def version_of(self, name: str) -> PackageFacts:
        """The package of that name."""
        return next(package for package in self.packages if package.name == name)

    def add(self, answers: Sequence[Answer]) -> None:
        """Take in what a worker said."""
        imported = {one["imported"]: one["error"] for one in answers if "imported" in one}
        self.packages = [
            replace(package, error=imported[package.module]) if imported.get(package.module) else package
            for package in self.packages
        ]
        for answer in answers:
            if "torch" in answer:
                self.torch = answer["torch"]
            elif "measured" in answer:
                self.measured.append(answer["measured"])
            elif "memory" in answer:
                self.memory = answer["memory"]
            elif "picture" in answer:
                self.picture = answer["picture"]
            elif "died" in answer:
                known = {name: answer[name] for name in ("begin", "device", "format") if name in answer}
                self.deaths.append(Death(job=answer["job"], reason=answer["died"], **known))


def examine(
    output: Path | None,
    *,
    model: Path = MODEL,
    architecture: str = ARCHITECTURE,
    formats: Sequence[str] = FORMATS,
    known: Examination | None = None,
    run_jobs: RunJobs = run_in_process,
    say: Callable[[str], None] = lambda text: None,
) -> Examination:
    """Look at the machine, run everything, draw.

    Args:
        output: file of the picture; None draws none.
        model: folder of the embedded model.
        architecture: that memory is planned for.
        formats: number formats to run in.
        known: what was found before PyTorch is asked; default what is found here.
        run_jobs: does the work that needs PyTorch.
        say: told what is looked at, for someone who waits.
    """
    found = known or Examination(machine=machine.gather(), packages=packages.gather())
    found.model_faults += model_faults(model)
    torch = found.version_of("torch")
    if torch.version is None or torch.is_old:
        return found  # nothing below would run, and the findings say so
    installed = [one.module for one in found.packages if one.version is not None]  # PyTorch is the first
    is_whole = not found.model_faults
    with ThreadPoolExecutor(1) as beside:
        importing = beside.submit(run_jobs, [{"do": "packages", "names": installed}])
        say("PyTorch, memory and the processor")
        first: list[Job] = [{"do": "torch"}, {"do": "memory", "architecture": architecture}]
        found.add(run_jobs([*first, *(_jobs("cpu", formats, model, output) if is_whole else ())]))
        for device in found.devices:
            if is_whole and device["name"] != "cpu":
                say(device["name"])
                found.add(run_jobs(_jobs(device["name"], formats, model, output)))
        found.add(importing.result())
    return found


def _jobs(device: str, formats: Sequence[str], model: Path, output: Path | None) -> list[Job]:
    """The measurements of a device, and the picture where `--device auto` takes this one."""
    jobs: list[Job] = [{"do": "device", "device": device, "formats": list(formats), "model": str(model)}]
    if output is not None:
        jobs.append({"do": "picture", "device": device, "model": str(model), "output": str(output)})
    return jobs


def model_faults(model: Path) -> list[str]:
    """Files of the embedded model that are not as its list of sums says."""
    try:
        sums = read_sums(model)
    except (OSError, ValueError) as error:
        return [str(error)]
    if not sums:
        return [f"{model.name}/SHA256SUMS is missing"]
    faults = []
    for name, digest in sums.items():
        try:
            if hash_file(model / name) != digest:
                faults.append(f"{name} is not as it was made: its sha256 differs")
        except OSError as error:
            faults.append(f"{name} cannot be read: {error.strerror or error}")
    return faults
