"""ComfyUI's part of saving, as far as our nodes call it, with ComfyUI's own signatures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

PACK = Path(__file__).parents[1] / "integrations" / "comfyui"


def load_nodes(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """`nodes.py` of our nodes, loaded as the host loads them: as a module of a package."""
    spec = importlib.util.spec_from_file_location(
        name, PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, package)
    for part in ("nodes", "input_names"):
        monkeypatch.delitem(sys.modules, f"{name}.{part}", raising=False)
    spec.loader.exec_module(package)
    return sys.modules[f"{name}.nodes"]


def beside_a_host(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """`nodes.py` beside a stand-in for its host, which shows no progress and never cancels."""
    management = SimpleNamespace(throw_exception_if_processing_interrupted=lambda: None)
    utils = SimpleNamespace(ProgressBar=lambda total: SimpleNamespace(update=lambda done: None))
    host = SimpleNamespace(model_management=management, utils=utils)
    for module, part in (("comfy", host), ("comfy.utils", utils), ("comfy.model_management", management)):
        monkeypatch.setitem(sys.modules, module, part)
    return load_nodes(monkeypatch, name)


def add_host(monkeypatch: pytest.MonkeyPatch, *, disable_metadata: bool = False) -> None:
    """Lets `import folder_paths` and `comfy.cli_args` succeed; pictures go below `output`."""
    folder_paths: Any = ModuleType("folder_paths")
    folder_paths.get_output_directory = lambda: str(Path("output").absolute())
    folder_paths.get_save_image_path = save_image_path
    cli_args: Any = ModuleType("comfy.cli_args")
    cli_args.args = SimpleNamespace(disable_metadata=disable_metadata)
    if "comfy" not in sys.modules:
        monkeypatch.setitem(sys.modules, "comfy", ModuleType("comfy"))
    monkeypatch.setitem(sys.modules, "folder_paths", folder_paths)
    monkeypatch.setitem(sys.modules, "comfy.cli_args", cli_args)


def save_image_path(
    filename_prefix: str, output_dir: str, image_width: int = 0, image_height: int = 0
) -> tuple[str, str, int, str, str]:
    """(folder, name, next free number, folder below the output folder, prefix)."""
    path = Path(filename_prefix)
    folder = Path(output_dir, path.parent)
    folder.mkdir(parents=True, exist_ok=True)
    counter = 1 + len(list(folder.glob(f"{path.name}_*.png")))
    return str(folder), path.name, counter, str(path.parent), filename_prefix
