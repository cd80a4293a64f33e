"""The report in headless Chromium: what stands on it is seen, and it asks nobody for anything.

With `DEEPGEN_SHOTS=FOLDER` pictures of it are kept; docs/evaluation_report.png is `report-light-1180.png`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageOps

import javascript
from deepgen.cli.app import main

pytestmark = javascript.needs("puppeteer-core", "axe-core")  # the page of the server is tested with them, too


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Twelve edits by the small model at 2 steps, beside the same with every other one mirrored."""
    options = ["--limit", "12", "--allow-partial"]
    drawn, mirrored = tmp_path / "run-a", tmp_path / "mirrored"
    steps = ["--model", "shapes", "--steps", "2"]
    assert main(["eval", "run", "shapes:edit", *steps, *options, "-o", str(drawn)]) == 0
    mirrored.mkdir()
    for index, path in enumerate(sorted((drawn / "shapes-edit/images").glob("*.png"))):
        with Image.open(path) as image:
            (ImageOps.mirror(image) if index % 2 else image).save(mirrored / path.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # so that the report names it by a short name
        taken = ["--model", "images:mirrored", "--steps", "2"]
        assert main(["eval", "run", "shapes:edit", *taken, *options, "-o", "run-b"]) == 0
        assert main(["eval", "report", "run-a", "run-b", "-o", "report.html"]) == 0
    return tmp_path / "report.html"


def test_a_reader_sees_tables_bars_and_pictures_in_light_and_dark(report: Path) -> None:
    javascript.run("report.test.mjs", DEEPGEN_REPORT=str(report))
