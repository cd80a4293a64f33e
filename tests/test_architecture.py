"""Who knows whom: the map of the package, read from its imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "deepgen"
sys.path.insert(0, str(SOURCE.parents[1] / "tools"))

import house_figures  # noqa: E402  # in tools/, which is no package

# From the bottom up. A unit imports itself and lower lines; those on its own line it does not know.
# What plugs the embedded world into a registry lies in its folder and stands above what it plugs into.
LEVELS = (
    (
        "_version",
        "embedded",
        "extras",
        "diffusers_registration",
        "moved",
        "addresses",
        "json_values",
        "processes",
        "progress",
        "resident",
        "image_colors",
        "text_lines",
        "transfer",
    ),
    ("old_paths", "image_formats", "yaml_files"),
    (
        "types",
        "config",
        "http_client",
        "http_access",
        "uploads",
        "shapes",
        "tiny",
        "suggestions",
        "prompt_text",
        "user_files",
    ),
    ("worlds", "registry"),
    ("models", "data", "rewards"),
    ("tiny.source", "tiny.rewards"),
    ("checkpoints",),
    ("sampling",),
    ("generation", "distilled_lora"),
    ("arguments", "image_sizes", "masking", "lora", "output", "saved_pipeline"),
    ("denoising", "encoding"),
    ("pipeline", "planning"),
    ("evaluation", "client", "doctor"),
    ("tiny.evaluation",),
    ("training", "serving"),
    ("tiny.stages",),
    ("rl",),  # a stage of the training loop, which mixes in the supervised one
    ("distillation",),  # another, whose student and teacher are a policy and its reference
    ("recipes",),
    ("tiny.recipes",),
    ("cli",),
    ("__main__",),
)
HEIGHT = {unit: height for height, units in enumerate(LEVELS) for unit in units}

# Packages of extras, or of nobody: imported inside the function that needs them.
OPTIONAL = {
    *("bitsandbytes", "torchao", "gguf", "xformers", "flash_attn", "deepspeed", "torchvision"),
    *("datasets", "webdataset", "pyarrow", "torchdata", "yaml"),
    *("matplotlib", "wandb", "tensorboard", "trackio"),
    *(
        "openai",
        "rapidocr",
        "onnxruntime",
        "fastapi",
        "starlette",
        "uvicorn",
        "prometheus_client",
        "opentelemetry",
        "gradio",
        "mcp",
        "c2pa",
        "ray",
    ),
}


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def unit_of(parts: Sequence[str]) -> str:
    """The unit of a dotted path below `deepgen`: the plug-ins of a folder are units of their own."""
    return ".".join(parts[:2]) if ".".join(parts[:2]) in HEIGHT else parts[0]


def imports(tree: ast.AST, inside_function: bool = False) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether inside a function) of everything a file imports."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((f"{node.module}.{alias.name}", inside_function) for alias in node.names)
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from imports(node, inside_function or is_function)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_knows_only_what_lies_below_it(path: Path) -> None:
    unit = unit_of(path.relative_to(SOURCE).with_suffix("").parts)
    assert unit in HEIGHT, f"{unit} is not on the map in {__file__}"
    for name, _ in imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "deepgen":
            continue
        other = unit_of(parts[1:])
        assert other in HEIGHT, f"import deepgen's own modules, not names from its top: {name}"
        assert other == unit or HEIGHT[other] < HEIGHT[unit], f"{unit} must not know {other} ({name})"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_optional_packages_are_imported_where_they_are_used(path: Path) -> None:
    at_the_top = {
        name.split(".")[0]
        for name, inside_function in imports(ast.parse(path.read_text()))
        if not inside_function
    }
    assert not at_the_top & OPTIONAL


def test_the_shapes_world_knows_nothing_else_of_ours() -> None:
    for path in (SOURCE / "shapes").rglob("*.py"):
        ours = {name for name, _ in imports(ast.parse(path.read_text())) if name.startswith("deepgen.")}
        assert all(name.startswith("deepgen.shapes.") for name in ours), path


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["generate", "--help"],
        ["download", "--help"],
        ["train", "--help"],
        ["train", "sft", "--optim.lr", "1", "--help"],
        ["train", "plan", "rl", "--help"],
        ["data", "inspect", "--help"],
        ["rewards", "serve", "--help"],
        ["eval", "run", "--help"],
        ["serve", "--help"],
        ["mcp", "--help"],
        ["ui", "--help"],
        ["doctor", "--help"],
    ],
)
def test_asking_for_help_loads_no_large_library(arguments: list[str]) -> None:
    code = f"""
import contextlib, sys
import deepgen, deepgen.cli
with contextlib.suppress(SystemExit):
    deepgen.cli.main({arguments})
heavy = {{"torch", "transformers", "diffusers", "numpy", "PIL", "httpx"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(SOURCE.parent)})


# --- what tools/house_figures.py counts


@pytest.fixture(scope="module")
def package() -> house_figures.Package:
    return house_figures.Package(SOURCE)


def test_no_function_is_longer_than_sixty_lines(package: house_figures.Package) -> None:
    assert house_figures.long_functions(package) == []


def test_no_modules_import_each_other_in_a_ring(package: house_figures.Package) -> None:
    """Not inside functions and not for types either."""
    assert house_figures.cycles(package) == []


def test_everything_is_caught_only_where_the_reason_stands_beside_it(package: house_figures.Package) -> None:
    assert house_figures.broad_excepts(package) == []


def test_a_class_name_means_one_thing(package: house_figures.Package) -> None:
    homes: dict[str, list[str]] = {}
    for name, module in package.modules.items():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(name)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_what_a_request_a_reward_and_a_rollout_pass_through_grows_no_further(
    package: house_figures.Package,
) -> None:
    served = package.closure(["serving.app", "serving.worker"], lazy=False)
    assert len([name for name in served if name.startswith("serving")]) <= 29
    assert len(house_figures.carriers(package)) <= 7
    assert len(package.closure(["rl.stage"], lazy=False)) <= 110


def test_the_figures_see_what_they_count(tmp_path: Path) -> None:
    body = "\n".join(f"    x = {number}" for number in range(61))
    files = {
        "__init__.py": "",
        "a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from deepgen.b import f\n",
        "b.py": f"def f():\n    from deepgen.a import TYPE_CHECKING\n\ndef long():\n{body}\n",
        "c.py": "try:\n    x = 1\nexcept (OSError, Exception):\n    pass\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    package = house_figures.Package(tmp_path)
    assert house_figures.long_functions(package) == [("b.long", 61)]
    assert house_figures.cycles(package) == [["a", "b"]]
    assert house_figures.broad_excepts(package) == ["c:3"]
