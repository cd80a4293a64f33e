"""The first minutes on a card: doctor, benchmark at full width and the memory table, within a budget of time.

    python3 benchmarks/first_gpu.py --fetch-wheels    # before, where there is a network: packages into .whl
    python3 benchmarks/first_gpu.py                   # on the machine with the card, within 12 minutes
    python3 benchmarks/first_gpu.py --device cpu --size tiny --minutes 10 --output /tmp/tried   # a trial

Needs nothing but Python and PyTorch there: what is in .whl is installed beside it, without network. Results
go to $OUT, or to benchmarks/results, as one file that is named by hardware and date, and doctor.txt with the
report. Every step has a limit; what a step had measured when it was ended is kept, and a step that no time is
left for says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / ".whl"
# Of the core needs what a machine with PyTorch, NumPy and transformers' other needs may lack or have too old.
# torchao is for the int8 modes; nf4's bitsandbytes is larger than what may travel, so that row says it lacks.
FETCHED = (
    *("transformers", "diffusers", "huggingface_hub", "tokenizers", "accelerate", "peft", "safetensors"),
    *("einops", "pillow", "psutil", "tyro", "docstring-parser", "typeguard", "httpx", "torchao"),
    *("httpx2", "httpcore2", "truststore", "importlib-metadata", "lazy-importer", "anyio", "idna", "h11"),
    *("click", "typing-extensions", "zipp", "filelock", "packaging", "fsspec"),
)
_GLIBC = (39, 35, 34, 31, 28, 27, 24, 17)  # minor versions that wheels are built for
PLATFORMS = (*(f"manylinux_2_{number}_x86_64" for number in _GLIBC), "manylinux2014_x86_64")
RESERVE_S = 20.0  # for ending the last step and writing the results
GRACE_S = 5.0  # from asking a step to end to ending it
LEAST_S = 20.0  # a step is not begun with less


@dataclass(frozen=True, kw_only=True)
class GpuStep:
    """One program to run: its name, its words after the interpreter, and its limit in seconds."""

    name: str
    words: tuple[str, ...]
    limit_s: float


@dataclass(kw_only=True)
class StepOutcome:
    """How a step went: "done", "failed", "ended" at its limit, or "left out"."""

    name: str
    state: str
    seconds: float = 0.0
    code: int | None = None
    said: str = ""


def steps_of(device: str, size: str, work: Path) -> list[GpuStep]:
    """What is run, the most telling first."""
    is_tiny = size == "tiny"
    width = ("--size", "tiny") if is_tiny else ("--size", "block", "--shorten", "1", "--rounds", "3")
    bench = ("benchmarks/bench.py", "--device", device, *width, "--output", str(work / "bench"))
    table = ("benchmarks/memory_table.py", "--device", device, "--output", str(work / "memory_table.json"))
    if is_tiny:
        table += ("--size", "tiny", "--side", "96", "--steps", "2", "--modes", "none", "16", "8")
    doctor = ("-m", "deepgen", "doctor", "--json", "-o", str(work / "doctor.png"))
    return [
        GpuStep(name="doctor", words=doctor, limit_s=150),
        GpuStep(name="bench", words=(*bench, "--sections", "compare", "parts", "memory"), limit_s=240),
        GpuStep(name="memory table", words=table, limit_s=270),
        GpuStep(name="growth", words=(*bench, "--sections", "growth"), limit_s=240),
    ]


def run_steps(
    steps: Sequence[GpuStep],
    work: Path,
    until: float,
    environment: Mapping[str, str],
    least_s: float = LEAST_S,
) -> list[StepOutcome]:
    """One after the other, until the clock (`time.monotonic`) says `until`; none is begun with less than
    `least_s` seconds left.

    What a step prints goes to `work`, in files named by the step.
    """
    found = []
    for step in steps:
        left = until - time.monotonic()
        if left < least_s:
            found.append(
                StepOutcome(name=step.name, state="left out", said=f"{max(0, left):.0f} s were left")
            )
        else:
            found.append(run_step(step, work, min(step.limit_s, left), environment))
        one = found[-1]
        print(f"{one.name}: {one.state} in {one.seconds:.0f} s {one.said}".rstrip(), flush=True)
    return found


def run_step(step: GpuStep, work: Path, limit_s: float, environment: Mapping[str, str]) -> StepOutcome:
    """One program; at its limit it is ended with all that it started."""
    print(f"{step.name}: at most {limit_s:.0f} s ...", flush=True)
    name, started = step.name.replace(" ", "_"), time.monotonic()
    with (work / f"{name}.out").open("w") as out, (work / f"{name}.err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, *step.words],
            cwd=ROOT,
            env=dict(environment),
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            code = process.wait(limit_s)
            state = "done" if code == 0 else "failed"
        except subprocess.TimeoutExpired:
            code, state = None, "ended"
        finally:
            if process.poll() is None:
                _end(process)
    lines = [line for line in (work / f"{name}.err").read_text(errors="replace").splitlines() if line.strip()]
    said = lines[-1][:500] if state == "failed" and lines else ""
    return StepOutcome(
        name=step.name, state=state, seconds=round(time.monotonic() - started, 1), code=code, said=said
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started; a moment is left to remove what lies in main memory."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):  # all of them have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def collect(work: Path, outcomes: Sequence[StepOutcome], minutes: float) -> dict[str, Any]:
    """Everything that was measured, of steps that were ended too."""
    doctor = read_json(work / "doctor.out")
    bench = {path.stem: read_json(path) for path in sorted((work / "bench").glob("*.json"))}
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "hardware": hardware(doctor),
        "minutes": minutes,
        "steps": [asdict(one) for one in outcomes],
        "doctor": doctor,
        "bench": {name: found for name, found in bench.items() if found is not None},
        "memory_table": read_json(work / "memory_table.json"),
    }


def read_json(path: Path) -> Any:
    """What a file holds; None where it is missing or was cut."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def hardware(doctor: Any) -> str:
    """The first device, as its maker calls it."""
    if doctor and doctor.get("torch"):
        return str(doctor["torch"]["devices"][0]["hardware"])
    return platform.processor() or platform.machine()


def write(found: dict[str, Any], work: Path, output: Path) -> Path:
    """The results' file, and beside it the picture and what the steps printed to stderr."""
    output.mkdir(parents=True, exist_ok=True)
    named = re.sub(r"[^a-z0-9]+", "-", found["hardware"].lower()).strip("-")[:40]
    path = output / f"first_gpu_{named}_{found['date'][:10]}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    logs = [f"== {file.stem}\n{file.read_text(errors='replace')}" for file in sorted(work.glob("*.err"))]
    path.with_suffix(".log").write_text("\n".join(logs)[-2_000_000:], encoding="utf-8")
    if (work / "doctor.png").is_file():
        shutil.copy(work / "doctor.png", path.with_suffix(".png"))
    return path


def environment_with(wheels: Path, work: Path) -> dict[str, str]:
    """This process's, with our sources and the wheels before what is installed.

    Raises:
        RuntimeError: a wheel does not fit this Python.
    """
    paths = [str(ROOT / "src")]
    if files := sorted(wheels.glob("*.whl")):
        site = work / "site"
        words = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
        words += ["--target", str(site), *map(str, files)]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the packages in {wheels} could not be installed: {done.stderr.strip()}")
        paths.append(str(site))
    paths += [path for path in [os.environ.get("PYTHONPATH")] if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}


def fetch_wheels(python: str, folder: Path = WHEELS) -> None:
    """Download the packages, with the versions of constraints.txt, for a machine of that Python."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].replace("_", "-"): line for line in lines if "==" in line}
    wanted = [pinned.get(name.replace("_", "-"), name) for name in FETCHED]
    words = ["-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    words += ["--python-version", python, "-d", str(folder)]
    words += [word for name in PLATFORMS for word in ("--platform", name)]
    subprocess.run([sys.executable, *words, *wanted], check=True)
    size = sum(file.stat().st_size for file in folder.glob("*.whl")) / 2**20
    print(f"{folder}: {len(list(folder.glob('*.whl')))} wheels, {size:.0f} MiB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; exit code 0 where every step was done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--minutes", type=float, default=12.0, help="for everything")
    parser.add_argument(
        "--output", type=Path, default=Path(os.environ.get("OUT") or ROOT / "benchmarks/results")
    )
    parser.add_argument("--wheels", type=Path, default=WHEELS, help="packages to install first, if any")
    parser.add_argument("--fetch-wheels", action="store_true", help="download them and end")
    parser.add_argument("--python", default="3.12", help="of the machine they are for")
    given = parser.parse_args(arguments)
    if given.fetch_wheels:
        fetch_wheels(given.python, given.wheels)
        return 0
    until = time.monotonic() + 60 * given.minutes - RESERVE_S
    with tempfile.TemporaryDirectory(prefix="deepgen-first-gpu-") as folder:
        work = Path(folder)
        environment = environment_with(given.wheels, work)
        outcomes = run_steps(steps_of(given.device, given.size, work), work, until, environment)
        path = write(collect(work, outcomes, given.minutes), work, given.output)
    print(path)
    return 0 if all(one.state == "done" for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
