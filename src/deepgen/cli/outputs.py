"""Names and checks of output files and folders, and how reports are printed.

Checked before a model is loaded, so that a full disk is an error before ten minutes of drawing, not after.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Protocol

SPARE_BYTES = 2**20  # file system overhead and metadata


def check_file_name(output: Path, name: str = "--output") -> None:
    """ValueError unless the suffix is that of a format pictures are written in."""
    from deepgen.data.image_files import kind_of  # costs the time of importing Pillow

    kind_of(output, name)


def grid_path(output: Path) -> Path:
    """`out-grid.png`."""
    return output.with_stem(f"{output.stem}-grid")


def check_output(output: Path, num_images: int, pixels: int) -> None:
    """Make the folder and prove that the pictures, of so many pixels each, can be written to it.

    Raises:
        OSError: the folder cannot be made or written to, or its disk has too little room.
    """
    if output.is_dir():
        raise IsADirectoryError(f"--output {output} is a folder; try {output / 'out.png'}")
    folder = output.parent
    check_folder(folder)
    copies = num_images if num_images == 1 else 2 * num_images  # the grid repeats them all
    needed, free = copies * pixels * 3 + SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder.absolute()} has {free / 1e6:.1f} MB left, the pictures may need {needed / 1e6:.1f} MB; "
            "free some space or choose another --output"
        )


def check_folder(folder: Path) -> None:
    """Make the folder and prove that a file can be written to it, or raise OSError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write pictures to {folder.absolute()}: {error.strerror or error}") from error


class Report(Protocol):
    """Anything that reads well as text and has a dictionary for programs."""

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        ...


def print_report(report: Report, *, as_json: bool) -> None:
    """To stdout, as text or as JSON; what JSON has no word for (paths) becomes text."""
    print(json.dumps(report.to_dict(), indent=2, default=str) if as_json else report)
