"""The wheel: built, looked into, installed into an empty environment, and one picture drawn there.

python tools/check_wheel.py            dependencies come from the package index, as for a user
python tools/check_wheel.py --borrow   dependencies are those of this environment; nothing is downloaded
                                       where hatchling is installed
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "deepgen"


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command in a folder that has no checkout on its path; what it printed.

    Raises:
        RuntimeError: it failed; the message ends with what it printed.
    """
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")
    }
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{said}")
    return done.stdout.strip()


def build(folder: Path) -> Path:
    """The wheel of this checkout, in a folder."""
    alone = ["--no-build-isolation"] if find_spec("hatchling") else []
    run(sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", *alone, "--quiet", "-w", folder, cwd=folder)
    (wheel,) = folder.glob("deepgen_image-*.whl")
    return wheel


def missing(wheel: Path) -> list[str]:
    """Files of the package that the wheel does not hold, beside caches."""
    held = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    wanted = ["deepgen/" + path.relative_to(PACKAGE).as_posix() for path in files]
    return sorted(name for name in [*wanted, "deepgen/py.typed"] if name not in held)


def install(wheel: Path, environment: Path, *, borrow: bool) -> Path:
    """Make an empty environment and install the wheel; its Python."""
    run(sys.executable, "-m", "venv", environment, cwd=wheel.parent)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    if borrow:
        own = Path(
            run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=wheel.parent)
        )
        (own / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(
        python, "-m", "pip", "install", "--quiet", *(["--no-deps"] if borrow else []), wheel, cwd=wheel.parent
    )
    return python


def draw(python: Path, folder: Path) -> str:
    """Draw a picture with the installed command; where the package was imported from."""
    command = python.parent / "deepgen"
    run(command, "--version", cwd=folder)
    run(
        command,
        "generate",
        "a red circle on a white background",
        "--seed",
        "1",
        "-o",
        "circle.png",
        cwd=folder,
    )
    look = (
        "from PIL import Image; im = Image.open('circle.png'); im.load(); assert im.size == (96, 96), im.size"
    )
    return run(python, "-c", f"{look}; import deepgen; print(deepgen.__file__)", cwd=folder)


def main() -> None:
    """Do all of it; exits with 1 and the reason where something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--borrow", action="store_true")
    borrow = parser.parse_args().borrow
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        wheel = build(folder)
        if absent := missing(wheel):
            sys.exit(f"{wheel.name} lacks {', '.join(absent)}")
        where = draw(install(wheel, folder / "environment", borrow=borrow), folder)
        if not Path(where).is_relative_to(folder):
            sys.exit(f"deepgen was imported from {where}, not from the wheel")
        size = f"{wheel.stat().st_size / 1e6:.1f} MB"
        print(f"{wheel.name}, {size}: installed, imported from the wheel, and drew a picture")


if __name__ == "__main__":
    main()
