"""The small Python module written into every saved folder, by which diffusers finds our pipeline's class.

`DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` imports the module that `_class_name` in
model_index.json names first, and takes the class it names second. We ourselves never run a folder's module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

MODULE, CLASS = "deepgen_pipeline", "DeepGenPipeline"
CLASS_NAME = [MODULE, CLASS]

# By name, because for an import statement diffusers advises to install whatever PyPI has under that name.
SOURCE = '''"""Tells diffusers which class draws with this folder; the code is in the installed package."""

from importlib import import_module

try:
    DeepGenPipeline = import_module("deepgen.pipeline").DeepGenPipeline
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}: this folder is drawn with by the package that saved it; install it as its README says"
    ) from error
'''


def write(folder: Path) -> None:
    """Write the module into a pipeline folder."""
    (folder / f"{MODULE}.py").write_text(SOURCE, encoding="utf-8")


def is_ours(class_name: Any) -> bool:
    """Whether a model_index.json with this `_class_name` is our pipeline's."""
    return class_name == CLASS or (isinstance(class_name, list) and class_name[-1:] == [CLASS])
