"""Installing: the distribution's name and its extras in every page and message, and every import declared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import get_args

import pytest
from packaging.specifiers import SpecifierSet

from deepgen.extras import DISTRIBUTION, Extra, install_hint, missing_extra

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
FOLDERS = ("src", "docs", "examples", "integrations", "tests", "tools", "benchmarks")
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".sbatch", ".html", ".js", ".cfg", ""}
# What pip is told to install, up to the end of the quotation or line.
INSTALL = re.compile(r"pip3? install ([^`\n)]*)")
OURS = re.compile(r"\bdeepgen(?:-image)?\[([^\]]*)\]")

# The distribution that holds a package of another name, and the one of ours that brings it by design.
DISTRIBUTION_OF = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "pillow_jxl": "pillow-jxl-plugin",
    "c2pa": "c2pa-python",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
    "opentelemetry": "opentelemetry-sdk",
    "opentelemetry.exporter": "opentelemetry-exporter-otlp-proto-http",
}
PROVIDED_BY_THE_HOST = {"comfy", "folder_paths"}  # ComfyUI's own, in its nodes
NOT_AN_EXTRA = {
    "ray": "examples/ray_serve.py names ray[serve] itself",
    "mmdet": "examples/serve_detector.py says which version, for those who have it",
}


def texts() -> Iterator[tuple[Path, str]]:
    """All files people read or run; the changelog tells what was, so it may name what was."""
    files = [path for path in ROOT.iterdir() if path.is_file() and path.name != "CHANGELOG.md"]
    files += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in files:
        parts = path.relative_to(ROOT).parts
        is_ours = not {"node_modules", "__pycache__", "results"} & set(parts) and path != Path(__file__)
        if is_ours and path.suffix in SUFFIXES and not (len(parts) == 1 and path.name.startswith(".")):
            yield path, path.read_text(encoding="utf-8", errors="replace")


def foreign_installs(text: str) -> list[str]:
    """Commands of a text that would install a distribution called `deepgen`, and extras of that name."""
    found = [match[0] for match in re.finditer(r"\bdeepgen\[\w[^\]=]*\]", text)]
    for command in INSTALL.findall(text):
        words = re.split(r"[\s'\"]+", command)
        found += [command for word in words if re.fullmatch(r"deepgen(\[.*)?([=<>~!].*)?", word)]
    return found


def test_no_page_message_or_example_installs_another_distribution() -> None:
    assert foreign_installs("pip install deepgen") == ["deepgen"]
    assert foreign_installs("pip install 'deepgen[serve]'")
    assert foreign_installs("pip install -U deepgen>=1")
    assert not foreign_installs("pip install 'deepgen-image[serve]' 'ray[serve]'")
    assert not foreign_installs("pip install -e /path/to/deepgen")
    found = {str(path.relative_to(ROOT)): foreign_installs(text) for path, text in texts()}
    assert not {path: commands for path, commands in found.items() if commands}


def test_every_extra_that_is_named_exists() -> None:
    named = [
        (path, extra) for path, text in texts() for match in OURS.findall(text) for extra in match.split(",")
    ]
    named += [
        (path, extra)
        for path, text in texts()
        for match in re.findall(r"pip install (?:-e )?'?\.\[([\w,]+)\]", text)
        for extra in match.split(",")
    ]
    assert len(named) > 10
    unknown = [(str(path), extra) for path, extra in named if extra not in EXTRAS and extra != "{extra}"]
    assert not unknown


def test_messages_take_their_hint_from_one_place() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        if path.name != "extras.py":
            assert "pip install" not in path.read_text(), f"{path}: use deepgen.extras"


def test_the_project_and_the_package_agree_on_name_and_extras() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    assert set(get_args(Extra)) == set(EXTRAS) - {"dev", "docs"}  # no module of the package needs these
    assert set(PROJECT["scripts"]) == {"deepgen"}


def test_an_extra_that_includes_another_names_this_distribution() -> None:
    own = [need for needs in EXTRAS.values() for need in needs if need.startswith("deepgen")]
    assert own
    for need in own:
        match = re.fullmatch(rf"{DISTRIBUTION}\[([\w,]+)\]", need)
        assert match, need
        assert set(match[1].split(",")) <= set(EXTRAS)


def test_the_table_of_extras_is_complete() -> None:
    page = (ROOT / "docs/install.md").read_text()
    table = page[page.index("| extra | for |") :].split("\n\n")[0].splitlines()[2:]
    named = [name for row in table for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(EXTRAS)


def test_the_oldest_python_that_is_named_is_one_that_every_dependency_runs_on() -> None:
    """As the installed versions say, which are those of constraints.txt."""
    oldest = re.findall(r">=(3\.\d+)", PROJECT["requires-python"])[0]
    needs = [*PROJECT["dependencies"], *(need for needs in EXTRAS.values() for need in needs)]
    too_new = {}
    for name in names(needs) - {DISTRIBUTION}:
        try:
            asked = metadata.metadata(name)["Requires-Python"]
        except metadata.PackageNotFoundError:  # of an extra that `dev` leaves out
            continue
        if asked and f"{oldest}.0" not in SpecifierSet(asked):
            too_new[name] = asked
    assert not too_new
    named = [line for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert named[0].endswith(f" {oldest}")
    assert f"Python {oldest} or newer" in (ROOT / "docs/install.md").read_text()


# --- imports


def imported(tree: ast.AST) -> set[str]:
    """Top packages that a file imports, by statement or by name; of a namespace that several distributions
    share, the package below it.
    """
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "find_spec", "_require") and isinstance(node.args[0].value, str):
                found.add(node.args[0].value)
    parts = {name: ".".join(name.split(".")[:2]) for name in found}
    tops = {parts[name] if parts[name] in DISTRIBUTION_OF else name.split(".")[0] for name in found}
    return {name for name in tops if name not in sys.stdlib_module_names and name != "deepgen"}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=~!;\s]", need)[0].lower().replace("_", "-") for need in requirements}


def test_everything_that_is_imported_is_declared_where_users_can_have_it() -> None:
    core = names(PROJECT["dependencies"])
    declared = core | {name for extra, needs in EXTRAS.items() if extra != "dev" for name in names(needs)}
    undeclared = {}
    for folder in ("src", "integrations", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            for package in imported(ast.parse(path.read_text())) - PROVIDED_BY_THE_HOST - NOT_AN_EXTRA.keys():
                distribution = DISTRIBUTION_OF.get(package, package).lower().replace("_", "-")
                if distribution not in declared:
                    undeclared[package] = str(path.relative_to(ROOT))
    assert not undeclared


def test_what_is_imported_at_the_top_of_a_file_is_a_core_dependency() -> None:
    core, outside = names(PROJECT["dependencies"]), {}
    for path in (ROOT / "src").rglob("*.py"):
        top = ast.Module(
            body=[n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
        )
        for package in imported(top):
            if DISTRIBUTION_OF.get(package, package).lower().replace("_", "-") not in core:
                outside[str(path)] = package
    assert not outside


# Declared, and imported by no file of ours.
NEEDED_BY_OTHERS = {
    "onnxruntime": "rapidocr runs its models with it and does not declare it",
    "scipy": "transformers needs it for the object detectors of rewards and benchmarks",
}
# `docs` and `dev` hold programs that are run, not imported: mkdocs, ruff, pyright, pytest and the like.
PROGRAMS = {"docs", "dev"}


def test_everything_that_is_declared_is_imported() -> None:
    used = {
        DISTRIBUTION_OF.get(package, package).lower().replace("_", "-")
        for folder in ("src", "integrations")
        for path in (ROOT / folder).rglob("*.py")
        for package in imported(ast.parse(path.read_text()))
    }
    groups = {"dependencies": PROJECT["dependencies"], **EXTRAS}
    declared = {
        (group, name) for group, needs in groups.items() if group not in PROGRAMS for name in names(needs)
    }
    idle = {(group, name) for group, name in declared if name not in used | {DISTRIBUTION}}
    assert {name for _, name in idle} == NEEDED_BY_OTHERS.keys(), idle


# --- hints


def test_a_hint_names_the_installed_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda name: name)
    assert install_hint("serve") == "pip install 'deepgen-image[serve]'"


def test_a_hint_names_the_clone_where_the_distribution_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    assert install_hint("serve") == f"pip install -e '{ROOT}[serve]'"


def test_a_missing_package_is_an_import_error_that_says_what_to_type() -> None:
    error = missing_extra("curves need matplotlib", "train", ImportError("No module named 'cycler'"))
    assert isinstance(error, ImportError)
    assert str(error) == f"curves need matplotlib: {install_hint('train')} (No module named 'cycler')"
