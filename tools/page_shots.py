"""Pictures of the server's page for the documentation, from headless Chromium.

python tools/page_shots.py                  into docs/, those that the documentation shows
python tools/page_shots.py --all FOLDER     every state of the page, to be looked at after a change

Needs Node and `npm install --prefix tests/serving/js`; $CHROME names a browser that is installed already.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "serving" / "js" / "page_shots.mjs"
SHOWN = ("desktop", "phone", "dark", "masking", "filmstrip")  # in docs/, as serve_NAME.png
MOST_BYTES = 150_000

sys.path.insert(0, str(ROOT / "tests"))

from serve_process import serving  # noqa: E402  # in tests/, which is no package


def shoot(folder: Path) -> list[Path]:
    """Drive the page of a server of the small model; its pictures, in a folder."""
    with serving() as url:
        environment = {**os.environ, "DEEPGEN_URL": url, "DEEPGEN_SHOTS": str(folder)}
        subprocess.run(["node", SCRIPT.name], cwd=SCRIPT.parent, env=environment, check=True, timeout=600)
    return sorted(folder.glob("*.png"))


def write_small(source: Path, target: Path) -> int:
    """Write a picture as it is where it is small enough, otherwise with 256 colours; its size in bytes."""
    with Image.open(source) as image:
        whole = image.convert("RGB")
    whole.save(target, optimize=True)
    if target.stat().st_size > MOST_BYTES:
        # Colours by how far apart they are, and not by area: a small red thing stays red.
        few = whole.quantize(256, Image.Quantize.MAXCOVERAGE, 2, dither=Image.Dither.NONE)
        few.save(target, optimize=True)
    return target.stat().st_size


def main() -> None:
    """Take the pictures; exits with 1 where one for the documentation is too large."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", type=Path, metavar="FOLDER")
    folder = parser.parse_args().all
    if folder is not None:
        for path in shoot(folder):
            print(path)
        return
    with tempfile.TemporaryDirectory() as name:
        shoot(Path(name))
        for shown in SHOWN:
            target = ROOT / "docs" / f"serve_{shown}.png"
            size = write_small(Path(name) / f"{shown}.png", target)
            print(f"{target.relative_to(ROOT)}: {size:,} bytes")
            if size > MOST_BYTES:
                sys.exit(f"{target.name} is larger than {MOST_BYTES:,} bytes")


if __name__ == "__main__":
    main()
