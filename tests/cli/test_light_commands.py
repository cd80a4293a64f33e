"""Which libraries a command may not import: those that take long, where it has no use for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from deepgen.data.image_files import save_image
from deepgen.generation import GenerationSettings

# Of none of these commands; each alone takes longer than the command may.
HEAVY = (
    *("torch", "transformers", "diffusers", "accelerate", "peft", "scipy"),
    *("pandas", "datasets", "matplotlib"),
)
# Of no command that loads or counts a model. What PyTorch, transformers and diffusers import is theirs.
FOREIGN = (
    *("pandas", "datasets", "matplotlib", "pyarrow", "gradio"),
    *("fastapi", "rapidocr", "torchvision", "wandb"),
)
CODE = """
import contextlib, io, sys
from deepgen.cli.app import main
for line in sys.argv[2:]:
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(line.split("|"))
    assert code == 0, line
    found = set(sys.argv[1].split()) & set(sys.modules)
    assert not found, (line, found)
"""


def check(forbidden: tuple[str, ...], folder: Path, *commands: str) -> None:
    """The commands, one after the other in one new process, do not import any of these."""
    code = [sys.executable, "-c", CODE, " ".join(forbidden), *commands]
    done = subprocess.run(code, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With pictures, each with its text, and one with the record of how it was drawn."""
    (tmp_path / "pictures").mkdir()
    for name, color in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (32, 32), color).save(tmp_path / "pictures" / f"{name}.png")
        (tmp_path / "pictures" / f"{name}.txt").write_text(f"a {color} picture")
    settings = GenerationSettings().resolve({"num_inference_steps": 2, "guidance_scale": 1.0})
    record = settings.record(prompt="a circle", seed=1, model="tiny", size=(32, 32), drawn_size=(32, 32))
    save_image(Image.new("RGB", (32, 32)), tmp_path / "drawn.png", record)
    return tmp_path


def test_commands_without_a_model_import_no_large_library(folder: Path) -> None:
    check(
        HEAVY,
        folder,
        "info|drawn.png",
        "data|stats|pictures",
        "data|inspect|pictures|-o|sheet.png",
        "eval|list",
        "rewards|list",
    )


@pytest.mark.slow
def test_commands_with_a_model_import_no_library_of_others(folder: Path) -> None:
    check(FOREIGN, folder, "info|tiny", "verify|tiny", "generate|a red circle|--steps|1|-o|x.png")


def test_the_check_sees_what_is_imported(folder: Path) -> None:
    with pytest.raises(AssertionError, match="numpy"):
        check(("numpy",), folder, "info|drawn.png")
