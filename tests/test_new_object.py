"""The tutorial's new object: its pictures say what they show, and its commands run as they are printed."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from deepgen.shapes.read import read
from deepgen.shapes.scene import SHAPES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorials" / "new_object.md"
SMALL = {
    "train lora": "--set num_steps=2 --set global_batch_size=6",
    "new_object.py score": "--limit 1",
    "eval shapes": "--limit 1 --steps 2",
}


@pytest.fixture
def new_object(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("new_object")


def test_training_pictures_hold_one_corner_of_the_color_their_caption_says(new_object, tmp_path):
    new_object.Images(folder=tmp_path).run()
    files = sorted(tmp_path.glob("*.png"))
    assert len(files) == new_object.NUM_IMAGES
    for file in files:
        scene = read(Image.open(file), (*SHAPES, new_object.NAME)).scene
        assert scene is not None
        (item,) = scene.objects
        assert item.shape == new_object.NAME
        assert f"{item.color} {item.shape}" in file.with_suffix(".txt").read_text()


def test_no_corner_that_is_asked_for_was_trained_in_that_color_and_place(new_object, tmp_path):
    new_object.Images(folder=tmp_path).run()
    scenes = [read(Image.open(file), (*SHAPES, new_object.NAME)).scene for file in tmp_path.glob("*.png")]
    shown = {(scene.objects[0].color, scene.objects[0].cell) for scene in scenes}
    kinds = set()
    for prompt in new_object.test_prompts(10):
        (corner,) = (claim for claim in prompt.claim.objects if claim.shape == new_object.NAME)
        assert (corner.color, corner.cell) not in shown
        assert (corner.color in new_object.SHOWN_COLORS) == (prompt.kind != "new color")
        kinds.add(prompt.kind)
    assert kinds == {*new_object.KINDS, "new color", "together"}


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run_one_after_the_other(tmp_path):
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    code = "\n".join(re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    for command in code.replace("\\\n", " ").splitlines():
        smaller = next((options for name, options in SMALL.items() if name in command), "")
        program, *arguments = shlex.split(f"{command} {smaller}")
        start = [sys.executable] if program == "python" else [sys.executable, "-m", program]
        subprocess.run([*start, *arguments], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "corner.png").is_file()
    assert (tmp_path / "outputs" / "new_object" / "new_object.png").is_file()
    assert (tmp_path / "outputs" / "after" / "shapes.json").is_file()
