"""`deepgen doctor` itself, in processes of its own: with a PyTorch that is missing, old, broken and whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
from PIL import Image

from deepgen.cli.app import main
from deepgen.doctor import examination as examining
from deepgen.doctor import worker
from deepgen.doctor.examination import Examination, examine
from deepgen.doctor.picture import shows_a_cat, write
from deepgen.output import DeepGenPipelineOutput
from doctor.facts import CPU_BUILD, examination, only, packages, problems
from pretended_device import PretendedDevice

SOURCE = Path(__file__).parents[2] / "src"
LIBRARIES = Path(safetensors.__file__).parents[1]


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    """All installed packages but PyTorch, for a Python without a site."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    for entry in LIBRARIES.iterdir():
        if not entry.name.startswith(("torch", "functorch", "__editable__", "_deepgen")):
            (folder / entry.name).symlink_to(entry)
    return folder


def install(libraries: Path, version: str, source: str) -> None:
    """A torch of that version."""
    (libraries / "torch").mkdir()
    (libraries / "torch/__init__.py").write_text(source)
    (libraries / f"torch-{version}.dist-info").mkdir()
    text = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
    (libraries / f"torch-{version}.dist-info/METADATA").write_text(text)


def doctor(libraries: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), str(libraries)]), **variables}
    return subprocess.run(
        [sys.executable, "-S", "-m", "deepgen", "doctor", *words],
        env=environment,
        cwd=libraries.parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_without_pytorch_it_says_so(libraries: Path) -> None:
    done = doctor(libraries)
    assert done.returncode == 1
    assert "problem: PyTorch is not installed" in done.stdout
    assert "transformers 5" in done.stdout
    assert done.stdout.rstrip().endswith("```")
    assert "Traceback" not in done.stderr


def test_an_old_pytorch_is_not_even_imported(libraries: Path) -> None:
    install(libraries, "2.5.1+cu124", "import os; open(os.environ['TOUCHED'], 'w'); raise SystemExit(9)")
    touched = libraries.parent / "touched"
    done = doctor(libraries, "--json", TOUCHED=str(touched))
    assert done.returncode == 1
    told = json.loads(done.stdout)
    (finding,) = [one for one in told["findings"] if one["level"] == "problem"]
    assert finding["what"] == "PyTorch 2.5.1+cu124 is too old: 2.6 or newer is needed"
    assert not touched.exists()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "raise OSError('libcudart.so.13: cannot open shared object file')",
            "OSError: libcudart.so.13: cannot open",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "the process was ended by SIGILL"),
    ],
)
def test_a_pytorch_that_cannot_be_imported_is_named(libraries: Path, source: str, reason: str) -> None:
    install(libraries, "2.13.0", source)
    done = doctor(libraries)
    assert done.returncode == 1
    (problem,) = [line for line in done.stdout.splitlines() if line.startswith("  problem: ")]
    assert f"PyTorch 2.13.0 is installed and does not work: {reason}" in problem
    assert "Traceback" not in done.stderr


# --- the picture --------------------------------------------------------------------------------------------


def test_a_picture_that_cannot_be_written_is_told_from_one_that_cannot_be_drawn(tmp_path: Path) -> None:
    drawn = DeepGenPipelineOutput(images=[Image.new("RGB", (96, 96))])
    assert write(drawn, tmp_path / "new" / "a.png") == (str(tmp_path / "new" / "a.png"), "")
    (tmp_path / "file").write_text("")
    path, message = write(drawn, tmp_path / "file" / "a.png")
    assert path == ""
    assert "file" in message
    if Path("/sys/kernel").is_dir():  # a file system that takes no files, not even from root
        path, message = write(drawn, Path("/sys/kernel/a.png"))
        assert path == ""
        assert message.split(":")[0] in ("PermissionError", "OSError")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_full_disk_is_a_finding(tmp_path: Path) -> None:
    class OnFullDisk:
        """Writes as a pipeline's output does, to a device without room."""

        def save(self, output: Path) -> list[Path]:
            with Path("/dev/full").open("wb") as file:
                file.write(b"x" * 10_000)
            return [output]

    path, message = write(OnFullDisk(), tmp_path / "a.png")
    assert path == ""
    assert "No space left on device" in message


def test_a_picture_is_judged_by_its_pixels() -> None:
    pixels = np.full((96, 96, 3), 255, dtype=np.uint8)
    assert not shows_a_cat(Image.fromarray(pixels))
    assert not shows_a_cat(Image.fromarray(pixels * 0))


def test_a_name_that_is_no_picture_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "-o", "report.txt"]) == 2
    assert "--output report.txt must end in .png, .jpg or .webp" in capsys.readouterr().err


# --- processes ----------------------------------------------------------------------------------------------


def test_a_process_that_is_quiet_for_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hangs_at_import.py").write_text("import time; time.sleep(600)")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    found = worker.run_in_process([{"do": "packages", "names": ["hangs_at_import", "json"]}], quiet_s=1.5)
    assert {"died": "no answer for 2 s", "job": "packages", "begin": "hangs_at_import"} in found
    assert {"imported": "json", "error": ""} in found


def test_what_is_left_after_a_process_died_goes_on_with_the_next_format() -> None:
    device = {"do": "device", "device": "cuda:0", "formats": ["float32", "bfloat16", "float16"], "model": "m"}
    picture = {"do": "picture", "device": "cuda:0", "model": "m", "output": "o"}
    begun = {"begin": "VAE decoder", "device": "cuda:0", "format": "bfloat16"}
    assert worker._rest([device, picture], begun) == [{**device, "formats": ["float16"]}, picture]
    last = {**begun, "format": "float16"}
    assert worker._rest([device, picture], last) == [picture]
    assert worker._rest([picture], {}) == []
    assert worker._rest([{"do": "memory"}, device], {}) == [device]
    assert worker._rest([{"do": "torch"}, device], {}) == []


def test_answers_of_processes_are_taken_in() -> None:
    found = Examination(machine=examination().machine, packages=packages(torchvision="0.28.0"))
    found.add(
        [
            {"job": 0},
            {"imported": "torchvision", "error": "RuntimeError: operator torchvision::nms does not exist"},
            {"imported": "numpy", "error": ""},
            {
                "died": "the process was ended by SIGSEGV",
                "job": "device",
                "begin": "bridge",
                "format": "float16",
            },
        ]
    )
    assert [one.name for one in found.packages if one.error] == ["torchvision"]
    assert found.deaths == [
        examining.Death(
            job="device", reason="the process was ended by SIGSEGV", begin="bridge", format="float16"
        )
    ]


# --- whole --------------------------------------------------------------------------------------------------


def test_a_damaged_model_is_said_and_its_numbers_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    asked: list[str] = []

    def run_jobs(jobs):
        asked.extend(job["do"] for job in jobs)
        return [{"torch": examination(CPU_BUILD).torch}] if jobs[0]["do"] == "torch" else []

    known = Examination(machine=examination().machine, packages=packages())
    found = examine(tmp_path / "a.png", model=tmp_path / "tiny", known=known, run_jobs=run_jobs)
    assert sorted(asked) == ["memory", "packages", "torch"]
    assert "the embedded model `tiny` is damaged: tiny/SHA256SUMS is missing" in only(problems(found))


@pytest.mark.parametrize(
    "formats", [("bfloat16",), pytest.param(examining.FORMATS, marks=pytest.mark.slow)], ids=len
)
def test_a_device_is_measured_drawn_on_and_planned_for(formats: tuple[str, ...], tmp_path: Path) -> None:
    """On the CUDA device that the tests pretend, whose numbers are the processor's; the long one draws."""
    device = PretendedDevice()
    known = Examination(
        machine=examination().machine, packages=[one for one in packages() if one.name == "torch"]
    )
    with device:
        found = examine(
            tmp_path / "a.png" if len(formats) > 1 else None,
            known=known,
            architecture="deepgen-shapes",
            formats=formats,
            run_jobs=worker.run_here,
        )
    assert problems(found) == []
    assert [one["name"] for one in found.devices] == ["cuda:0", "cpu"]
    measured = {(one["device"], one["format"]) for one in found.measured}
    assert measured == {(device, name) for device in ("cuda:0", "cpu") for name in formats}
    assert all(one["state"] == "right" for one in found.measured)
    assert [one["device"] for one in found.memory] == ["cuda:0", "cpu"]
    if len(formats) > 1:
        assert found.picture is not None
        assert (found.picture["device"], found.picture["format"]) == ("cuda:0", "bfloat16")
        assert shows_a_cat(Image.open(tmp_path / "a.png"))


@pytest.mark.slow
def test_a_card_that_pytorch_is_not_built_for_and_a_format_that_kills_its_process(tmp_path: Path) -> None:
    """A driver's program is found, and PyTorch's convolution in float16 ends the process."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 4090, 24564 MiB, 550.54.14'\n")
    program.chmod(0o755)
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import importlib.abc, importlib.machinery, os, sys
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "deepgen.doctor.measure":
            return None
        sys.meta_path.remove(self)
        import torch
        conv2d = torch.nn.functional.conv2d
        def broken(x, *args, **kwargs):
            if x.dtype == torch.float16:
                os.kill(os.getpid(), {int(signal.SIGSEGV)})
            return conv2d(x, *args, **kwargs)
        torch.nn.functional.conv2d = broken
        return None
sys.meta_path.insert(0, Finder())
"""
    )
    variables = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(SOURCE)]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "deepgen", "doctor", "--json"],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-2000:].encode("ascii", "replace").decode()
    told = json.loads(done.stdout)
    wrong = [one["what"] for one in told["findings"] if one["level"] == "problem"]
    assert any(
        "NVIDIA GeForce RTX 4090 (24564 MiB), and PyTorch" in one and "without CUDA" in one for one in wrong
    )
    assert "cpu failed at convolution in float16: the process was ended by SIGSEGV" in wrong
    states = {(one["format"], one["state"]) for one in told["measured"]}
    assert {("float32", "right"), ("bfloat16", "right")} <= states
    assert told["picture"]["is_right"]
    assert (tmp_path / "doctor.png").is_file()
