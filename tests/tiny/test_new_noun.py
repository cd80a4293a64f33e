"""A noun of one's own: its drawing is read as a thing of the world, and its tutorial's commands run."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageDraw

from deepgen.tiny.added_drawing import add_drawing
from deepgen.tiny.read import read
from deepgen.tiny.render import render
from deepgen.tiny.scene import GROUNDS, SIZES, Scene, Thing
from deepgen.tiny.templates import Templates
from storybook_model import write_storybook_model

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorials" / "new_noun.md"
ROBOT = ROOT / "examples" / "drawings" / "robot.png"
SMALL = {
    "train lora": "--set num_steps=2 --set global_batch_size=4 --set micro_batch_size=4",
    "new_noun.py score": "--limit 1 --steps 1",
    "generate": "--steps 1",
    "eval storybook": "--limit 1 --abilities text --steps 1",
}


@pytest.fixture
def new_noun(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("new_noun")


def test_a_new_thing_is_read_on_every_ground_and_is_none_of_the_worlds():
    added = add_drawing(ROBOT, "robot")
    templates = Templates(added)
    for ground in GROUNDS:
        for size in SIZES:
            things = (Thing(noun="robot", cell=(1, 1), size=size), Thing(noun="cat", cell=(0, 2)))
            image = render(Scene(ground=ground, things=things), added)
            assert set(read(image, templates).things) == set(things)
            assert all(thing.noun != "robot" for thing in read(image).things)
            assert read(image).unknown_cells == ((1, 1),)


def test_white_around_a_drawing_is_paper_and_white_inside_is_not(tmp_path):
    image = Image.new("RGB", (80, 60), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((20, 10, 59, 49), fill="blue")
    draw.rectangle((30, 20, 49, 39), fill="white")
    image.save(tmp_path / "frame.png")
    tile = add_drawing(tmp_path / "frame.png", "frame")["frame"]["large"]
    assert tile.shape == (32, 32, 4)
    assert np.allclose(tile[16, 16], (255, 255, 255, 1))
    assert np.allclose(tile[2, 2], (0, 0, 255, 1))
    assert np.allclose(tile[0], 0)  # 30 pixels in the middle of 32


@pytest.mark.parametrize(
    ("noun", "image", "message"),
    [
        ("cat", None, "knows the word 'cat' already"),
        ("palm tree", None, "already"),
        ("Robot!", None, "one or two words of small letters"),
        ("robot", Image.new("RGB", (40, 40), "white"), "nothing drawn"),
        ("robot", Image.new("RGBA", (40, 40)), "nothing drawn"),
    ],
)
def test_a_drawing_or_a_noun_that_cannot_be_is_refused(tmp_path, noun, image, message):
    path = ROBOT
    if image is not None:
        path = tmp_path / "drawing.png"
        image.save(path)
    with pytest.raises(ValueError, match=message):
        add_drawing(path, noun)


def test_training_pictures_hold_what_their_captions_say(new_noun, tmp_path):
    new_noun.Pictures(drawing=ROBOT, folder=tmp_path, noun="robot", count=24).run()
    templates = Templates(add_drawing(ROBOT, "robot"))
    prompts = new_noun.training_prompts("robot", 24)
    assert {prompt.kind for prompt in prompts} == set(new_noun.KINDS)
    for index, prompt in enumerate(prompts):
        with Image.open(tmp_path / "pictures" / f"{index:03}.png") as image:
            assert prompt.is_right(image, templates)
            assert not prompt.is_right(image, Templates())
        caption = (tmp_path / "pictures" / f"{index:03}.txt").read_text().strip()
        assert caption == prompt.text
        assert re.search(r"\brobots?\b", caption)
        assert "an robot" not in caption


def test_no_wording_that_is_asked_for_was_trained(new_noun):
    trained = {prompt.text for prompt in new_noun.training_prompts("robot", 60)}
    asked = [prompt.text for prompt in new_noun.test_prompts("robot", 5)]
    assert not trained & set(asked)
    assert new_noun.put_in("an owl and two owls", "owl", "robot") == "a robot and two robots"


def test_scores_are_counted_and_shown_side_by_side(new_noun):
    templates = Templates(added := add_drawing(ROBOT, "robot"))
    prompts = new_noun.test_prompts("robot", 2)
    right = [render(prompt.scene, added) for prompt in prompts]
    empty = [render(Scene()) for _ in prompts]
    assert set(new_noun._shares(prompts, right, templates).values()) == {1.0}
    assert set(new_noun._shares(prompts, empty, templates).values()) == {0.0}
    sheet = new_noun.figure(right[:3], prompts, empty, right, templates)
    assert sheet.width > 8 * 96
    assert sheet.height > 3 * 96


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run_one_after_the_other(tmp_path):
    for name in ("tools", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    write_storybook_model(tmp_path / "storybook-model")
    code = "\n".join(re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    for command in code.replace("\\\n", " ").splitlines():
        smaller = next((options for name, options in SMALL.items() if name in command), "")
        program, *arguments = shlex.split(f"{command} {smaller}")
        start = [sys.executable] if program == "python" else [sys.executable, "-m", program]
        subprocess.run([*start, *arguments], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "robot_before.png").is_file()
    assert (tmp_path / "robot_after.png").is_file()
    assert (tmp_path / "outputs" / "new_noun" / "new_noun.png").is_file()
    assert (tmp_path / "outputs" / "after" / "storybook.json").is_file()
