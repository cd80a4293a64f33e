"""Work that needs PyTorch, in a process of its own: a driver that kills or hangs it is a finding, not an end.

The parent sends a list of jobs as JSON and reads answers from a file, a line of JSON each, which is written
through after every step; so what a process said before it died is known, and the last thing it began is the
culprit. Formats that were not begun are then given to a new process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

Answer = dict[str, Any]
Job = Mapping[str, Any]
Say = Callable[[Answer], None]
RunJobs = Callable[[Sequence[Job]], list[Answer]]

QUIET_S = (
    300.0  # without a new answer: a device's first kernels can take minutes, where they are compiled for it
)
_START = """
import json, sys
sent = json.load(open(sys.argv[1], encoding="utf-8"))
sys.path[:] = sent["path"]
from deepgen.doctor.worker import main
main(sent["jobs"], sys.argv[2])
"""


def do(job: Job, say: Say) -> None:
    """One job; what it raises ends the process and with it the jobs behind it."""
    what = job["do"]
    if what == "packages":
        from deepgen.doctor.packages import import_each

        import_each(job["names"], say)
    elif what == "torch":
        from deepgen.doctor.torch_facts import gather

        say({"torch": asdict(gather())})
    elif what == "memory":
        from deepgen.doctor.memory import suggestions

        say({"memory": [asdict(one) for one in suggestions(job["architecture"])]})
    elif what == "device":
        from deepgen.doctor.measure import measure_device

        measure_device(job["device"], job["formats"], say, model=Path(job["model"]))
    elif what == "picture":
        from deepgen.doctor.picture import draw
        from deepgen.doctor.torch_facts import gather

        first = gather().devices[0]
        if first.name == job["device"]:
            drawn = draw(first.name, first.drawn_in, Path(job["model"]), Path(job["output"]))
            say({"picture": asdict(drawn)})
    else:
        raise ValueError(f"unknown job {what!r}")


def main(jobs: Sequence[Job], answers: str) -> None:
    """In the process: do every job, and write the answers."""
    with Path(answers).open("a", encoding="utf-8") as file:

        def say(answer: Answer) -> None:
            file.write(json.dumps(answer) + "\n")
            file.flush()

        for place, job in enumerate(jobs):
            say({"job": place})
            do(job, say)
        say({"end": True})


def run_in_process(jobs: Sequence[Job], *, quiet_s: float = QUIET_S) -> list[Answer]:
    """Start a process for the jobs, and new ones for what is left where it dies.

    Returns:
        All answers, and `{"died": reason, "job": ..., "begin": ...}` for each process that did not end well.
    """
    found: list[Answer] = []
    left = list(jobs)
    while left:
        answers, reason = _one_process(left, quiet_s)
        found += answers
        if any("end" in answer for answer in answers):
            break
        place = max((answer["job"] for answer in answers if "job" in answer), default=0)
        begun = _last_begun(answers)
        found.append({"died": reason, "job": left[place]["do"], **begun})
        left = _rest(left[place:], begun)
    return found


def _rest(jobs: Sequence[Job], begun: Answer) -> list[Job]:
    """What is to be done after a process died in the first of `jobs`: its next formats, then the others."""
    died, *others = jobs
    if died["do"] == "torch":
        return []  # nothing runs without it
    if died["do"] == "packages" and begun:
        names = died["names"]
        if begun["begin"] == "torch":
            return others
        rest = names[names.index(begun["begin"]) + 1 :]
        return [{**died, "names": rest}, *others] if rest else others
    if died["do"] != "device" or "format" not in begun:
        return others
    formats = died["formats"]
    rest = formats[formats.index(begun["format"]) + 1 :]
    return [{**died, "formats": rest}, *others] if rest else others


def _last_begun(answers: Sequence[Answer]) -> Answer:
    """The step under way when a process died; the one before where it died between two."""
    begun = [answer for answer in answers if "begin" in answer]
    return begun[-1] if begun else {}


def _one_process(jobs: Sequence[Job], quiet_s: float) -> tuple[list[Answer], str]:
    """The answers of one process, and why it ended where it did not end well."""
    with tempfile.TemporaryDirectory() as folder:
        sent, answers, errors = (Path(folder) / name for name in ("jobs.json", "answers", "errors"))
        sent.write_text(json.dumps({"path": sys.path, "jobs": list(jobs)}), encoding="utf-8")
        answers.touch()
        environment = {**os.environ, "TQDM_DISABLE": "1", "PYTHONFAULTHANDLER": "1"}
        with errors.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-c", _START, str(sent), str(answers)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )
            try:
                is_hung = _wait(process, answers, quiet_s)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        said = errors.read_text(encoding="utf-8", errors="replace")
        lines = answers.read_text(encoding="utf-8").splitlines()
        reason = f"no answer for {quiet_s:.0f} s" if is_hung else _reason(process.returncode, said)
        return [json.loads(line) for line in lines if line.endswith("}")], reason


def _wait(process: subprocess.Popen[bytes], answers: Path, quiet_s: float) -> bool:
    """Until it ends; True where it has been quiet for too long."""
    size, since = 0, time.monotonic()
    while process.poll() is None:
        time.sleep(0.05)
        if (now := answers.stat().st_size) != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > quiet_s:
            return True
    return False


def _reason(code: int, said: str) -> str:
    """Why a process ended: a signal by its name, or the last line of its error."""
    if code < 0:
        import signal

        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"the process was ended by {name}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else f"the process ended with code {code}"


_HERE = threading.Lock()


def run_here(jobs: Sequence[Job]) -> list[Answer]:
    """The same in this process, one list at a time: for devices that no other process has, as in tests."""
    found: list[Answer] = []
    with _HERE:
        for job in jobs:
            do(job, found.append)
    return found
