"""`deepgen edit` as people type it: pictures in any place, masks, and what is said of the size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepgen.cli import drawing, edit, main
from deepgen.data.png import read_record
from deepgen.pipeline import DeepGenPipeline


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPGEN_MODEL", raising=False)
    for index, name in enumerate(("a.png", "b.jpg", "c.webp", "my photo.png")):
        Image.new("RGB", (64, 32 + 32 * (index > 0)), (80 * index, 0, 0)).save(name)
    Path("folder").mkdir()


@pytest.fixture
def calls(pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the pipeline was asked."""
    asked, call = [], DeepGenPipeline.__call__

    def noted(self: DeepGenPipeline, prompt: str, **options: Any) -> Any:
        asked.append((prompt, options))
        return call(self, prompt, **options)

    monkeypatch.setattr(DeepGenPipeline, "__call__", noted)
    monkeypatch.setattr(drawing, "load_pipeline", lambda options: pipe)
    return asked


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "load_pipeline", lambda options: pytest.fail("the model was loaded"))


@pytest.mark.parametrize(
    ("words", "images"),
    [
        (["red", "a.png"], ["a.png"]),
        (["red", "a.png", "b.jpg", "c.webp"], ["a.png", "b.jpg", "c.webp"]),
        (["red", "--image", "a.png"], ["a.png"]),
        (["red", "--image=a.png"], ["a.png"]),
        (["--image", "a.png", "red"], ["a.png"]),
        (["red", "--image", "b.jpg", "a.png"], ["b.jpg", "a.png"]),
        (["red", "--image", "b.jpg", "--image", "a.png"], ["b.jpg", "a.png"]),
        (["--image", "b.jpg", "a.png", "red"], ["b.jpg", "a.png"]),
        (["--image", "a.png", "--steps", "1", "red", "b.jpg"], ["a.png", "b.jpg"]),
        (
            ["red", "c.webp", "--image", "a.png", "b.jpg", "--image", "c.webp"],
            ["c.webp", "a.png", "b.jpg", "c.webp"],
        ),
        (["red", "--no-metadata", "b.jpg", "--size", "64x64", "a.png"], ["b.jpg", "a.png"]),
        (["red", "my photo.png", "-n", "1", "--image", "a.png"], ["my photo.png", "a.png"]),
        (["--seed", "3", "--", "red", "a.png"], ["a.png"]),
    ],
    ids=" ".join,
)
def test_pictures_are_taken_in_the_order_in_which_they_were_typed(
    words: list[str], images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(edit, "draw", lambda options, *given: asked.append(given))
    assert main(["edit", *words]) == 0
    assert asked == [("red", tuple(images), None)]


def test_several_pictures_reach_the_model(calls: list[Any]) -> None:
    assert main(["edit", "red", "b.jpg", "--image", "a.png"]) == 0
    ((prompt, options),) = calls
    assert (prompt, [image.size for image in options["image"]]) == ("red", [(64, 64), (64, 32)])
    assert read_record(Path("out.png")).image == ("b.jpg", "a.png")


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["b.jpg", "make it red"], "the instruction comes first, and 'b.jpg' looks like a picture; "),
        (["b.jpg", "make it red"], 'try deepgen edit "make it red" b.jpg'),
        (["my photo.png", "make it red"], "looks like a picture"),
        (["gone.jpg"], 'try deepgen edit "make it red" gone.jpg'),
        (["make it red"], "nothing to edit: name the picture after the instruction"),
        (
            ["make", "it", "red", "a.png"],
            "there is no picture at it; put an instruction of several words in quotes",
        ),
        (["red", "a.png", "gone.png"], "there is no picture at gone.png"),
        (["red", "--image", "a.png", "gone.png"], "there is no picture at gone.png"),
        (["red", "*.bmp"], "no file fits this pattern"),
        (["red", "folder"], "folder is a folder, not a picture"),
        (["red", "https://host/a.png"], "addresses are not fetched"),
        (["red", "a.png", "--mask", "gone.png"], "there is no picture at gone.png"),
        (["red", "a.png", "--mask", "b.jpg"], "mask has no transparency; make transparent what may change"),
        (["red", "a.png", "--mask", "opaque.png"], "mask allows no pixel to change"),
        (["red", "a.png", "--mask", "tall.png"], "mask is 32x64 and the first picture 64x32"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_slip_is_one_clear_line_before_a_model_is_loaded(
    words: list[str], message: str, capsys: Any
) -> None:
    Image.new("RGBA", (64, 32), (0, 0, 0, 255)).save("opaque.png")
    Image.new("RGBA", (32, 64), (0, 0, 0, 0)).save("tall.png")
    assert main(["edit", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("deepgen: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not Path("out.png").exists()


@pytest.mark.parametrize("words", [["--image", "a.png"], ["--image", "a.png", "b.jpg"]])
def test_pictures_alone_lack_their_instruction(words: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["edit", *words])
    assert "deepgen edit needs TEXT" in capsys.readouterr().err


def test_outside_its_mask_a_picture_stays_as_it_is(calls: list[Any], image: Image.Image) -> None:
    image.save("source.png")
    mask = image.convert("RGBA")
    mask.paste((0, 0, 0, 0), (20, 20, 60, 50))
    mask.save("mask.png")
    assert main(["edit", "a star", "source.png", "--mask", "mask.png", "--seed", "1"]) == 0
    made, source = np.asarray(Image.open("out.png")), np.array(image)
    assert (made[20:50, 20:60] != source[20:50, 20:60]).any()
    source[20:50, 20:60] = made[20:50, 20:60]
    assert (made == source).all()
    assert read_record(Path("out.png")).mask == "mask.png"


def test_an_edit_that_was_drawn_smaller_says_so(calls: list[Any], capsys: Any) -> None:
    Image.new("RGB", (400, 200)).save("large.png")
    assert main(["edit", "red", "large.png", "-o", "new.webp", "--seed", "1"]) == 0
    assert "new.webp  400x200, seed 1, drawn at 64x32, enlarged to 400x200, " in capsys.readouterr().out
    record = read_record(Path("new.webp"))
    assert (record.width, record.height, record.drawn_width, record.drawn_height) == (400, 200, 64, 32)
    assert Image.open("new.webp").size == (400, 200)


def test_an_edit_that_was_not_says_nothing(calls: list[Any], capsys: Any) -> None:
    assert main(["edit", "red", "a.png", "--seed", "1"]) == 0
    assert main(["edit", "red", "a.png", "--seed", "1", "--size", "32x64"]) == 0
    assert "drawn at" not in capsys.readouterr().out
    assert read_record(Path("out.png")).drawn_width is None


def test_an_empty_name_of_a_picture_is_called_empty(calls: list[Any], capsys: Any) -> None:
    assert main(["edit", "red", ""]) == 2
    assert "the name of a picture is empty" in capsys.readouterr().err


def test_a_plan_refuses_a_folder_that_is_not_there(capsys: Any) -> None:
    given = ["generate", "--plan", "--card", "rtx-4060"]
    assert main([*given, "--model", "./nope"]) == 2
    assert "--model ./nope: no such file or folder" in capsys.readouterr().err
    assert main([*given, "--transformer-gguf", "nope.gguf"]) == 2
    assert "--transformer-gguf nope.gguf: no such file" in capsys.readouterr().err
