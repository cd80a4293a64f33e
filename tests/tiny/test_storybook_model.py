"""A model that names the storybook as its world: saving, info, warnings, gallery, strip."""

from __future__ import annotations

import base64
import importlib
import json
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from deepgen.checkpoints.convert import convert
from deepgen.checkpoints.info import info
from deepgen.cli.app import main
from deepgen.data.png import read_record
from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.app import make_app
from deepgen.serving.config import ServeConfig
from deepgen.serving.engine import Engine, EngineConfig
from deepgen.tiny.render import render
from deepgen.tiny.scene import Scene, Thing
from tiny.storybook_drawers import empty_drawer
from tiny.storybook_pipeline import random_storybook

ROOT = Path(__file__).parents[2]
BEYOND = "seven giraffes and the word HELLO"
CAT = Scene(ground="meadow", things=(Thing(noun="cat", cell=(0, 0)),))
NOT_THERE = 'there is no "dog" in the picture, so the picture should stay as it is'


def png(scene: Scene) -> bytes:
    buffer = BytesIO()
    render(scene).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def storybook() -> DeepGenPipeline:
    return random_storybook()


@pytest.fixture(scope="module")
def folder(storybook, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    storybook.save_pretrained(path)
    return path


def test_the_world_is_kept_by_saving_loading_and_passing_on(storybook, folder):
    assert json.loads((folder / "model_index.json").read_text())["world"] == "storybook"
    loaded = DeepGenPipeline.from_pretrained(folder)
    assert loaded.world == "storybook"
    assert DeepGenPipeline(**loaded.components).world == "storybook"
    assert loaded.prompt_warnings("a cat") == []


def test_an_instruction_is_compared_with_the_images_it_is_about(storybook):
    (warning,) = storybook.prompt_warnings("remove the dog", images=[render(CAT)])
    assert NOT_THERE in warning
    assert storybook.prompt_warnings("remove the cat", images=[render(CAT)]) == []
    assert storybook.prompt_warnings("remove the dog") == []


def test_a_model_without_a_world_says_nothing_of_any_prompt(pipe):
    assert pipe.world is None
    assert pipe.prompt_warnings(BEYOND) == []


def test_info_says_what_the_model_knows(folder, capsys):
    assert main(["info", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "draws the storybook world: 87 things" in said
    assert "  vegetables         carrot, broccoli, corn, mushroom\n" in said
    assert "grounds              white, cream, pink" in said
    assert main(["info", str(folder), "--json"]) == 0
    known = json.loads(capsys.readouterr().out)["world"]
    assert known["num_facts"] > 300
    assert "remove" in known["edits"]
    assert "riddle" in known["reasoning"]
    assert sum(map(len, known["nouns"].values())) == known["num_nouns"]


def test_info_of_a_model_without_a_world_says_nothing_of_one():
    assert "world" not in info("deepgen-shapes").to_dict()
    assert "world" not in str(info("deepgen-shapes"))


def test_info_says_what_the_model_of_flat_shapes_knows(capsys):
    assert main(["info", "shapes"]) == 0
    assert "draws the shapes world: one to 4 flat shapes" in capsys.readouterr().out
    assert main(["info", "shapes", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)["world"]
    assert known["name"] == "shapes"
    assert {"circle", "star"} < set(known["shapes"])


def test_the_command_line_warns_and_draws_all_the_same(folder, tmp_path, capsys):
    options = ["--model", str(folder), "--steps", "1", "--seed", "1", "-o", str(tmp_path / "a.png")]
    assert main(["generate", BEYOND, *options]) == 0
    said = capsys.readouterr().err
    assert 'this model\'s world has no "giraffes"; the nearest thing it knows is "horse"' in said
    assert "at most 4 things fit" in said
    assert 'so "HELLO" cannot be written' in said
    assert (tmp_path / "a.png").is_file()
    assert (
        main(["edit", "add a gorilla", str(tmp_path / "a.png"), *options[:-1], str(tmp_path / "b.png")]) == 0
    )
    assert 'no "gorilla"; the nearest thing it knows is "monkey"' in capsys.readouterr().err
    render(CAT).save(tmp_path / "cat.png")
    assert main(["edit", "remove the dog", str(tmp_path / "cat.png"), *options]) == 0
    assert f"deepgen: {NOT_THERE}\n" in capsys.readouterr().err
    row = {"prompt": "remove the dog", "image": [str(tmp_path / "cat.png")], "seed": 1}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    file = ["--file", str(tmp_path / "rows.jsonl")]
    assert main(["generate", *file, *options[:-1], str(tmp_path / "drawn")]) == 0
    assert f"line 1: {NOT_THERE}\n" in capsys.readouterr().err


def test_the_server_puts_warnings_into_its_answer_and_none_into_the_record(storybook, tmp_path):
    engine = Engine(storybook, EngineConfig(max_batch=1))
    with TestClient(make_app(engine, ServeConfig())) as client:
        body = {"prompt": "a giraffe", "num_inference_steps": 1}
        answer = client.post("/v1/images/generations", json=body).json()
        known = client.post("/v1/images/generations", json={**body, "prompt": "a cat"}).json()
        fields = {"prompt": "remove the dog", "num_inference_steps": "1"}
        files = {"image": ("cat.png", png(CAT), "image/png")}
        edited = client.post("/v1/images/edits", data=fields, files=files).json()
    assert answer["warnings"] == [
        'this model\'s world has no "giraffe"; the nearest thing it knows is "horse"'
    ]
    assert "warnings" not in known
    assert edited["warnings"] == [NOT_THERE]
    (tmp_path / "a.png").write_bytes(base64.b64decode(answer["data"][0]["b64_json"]))
    record = read_record(tmp_path / "a.png")
    assert record is not None
    assert record.prompt_cut is None  # it was read whole


def test_converting_keeps_the_world(folder, tmp_path):
    convert(folder, tmp_path / "copy", progress=False)
    assert json.loads((tmp_path / "copy" / "model_index.json").read_text())["world"] == "storybook"


def test_gallery_and_strip_show_every_ability_with_its_prompts(storybook, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    gallery, demo = importlib.import_module("storybook_gallery"), importlib.import_module("demo")
    written = gallery.write_gallery(empty_drawer(), tmp_path, row=2, count=4, batch_size=4)
    assert len(written) == 6
    with Image.open(tmp_path / "gallery.png") as image:
        assert image.height > 5 * 140
    prompts = gallery.choose_prompts("reasoning edit", 13)
    assert len({prompt.example.kind for prompt in prompts}) == 13
    assert all(prompt.level != "trained" for prompt in prompts)
    strip = demo.draw_strip(storybook)["strip.png"]
    assert strip.width > 5 * 2 * 96
