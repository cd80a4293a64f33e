"""The documentation holds: its blocks run as a user would run them, links lead somewhere, commands parse.

`tools/run_docs.py` runs the blocks; here those of the README and, among the slow tests, all of them.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from deepgen.cli.app import Command
from deepgen.cli.parsing import parse
from deepgen.tiny.read import read

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
RUN_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNNER = ROOT / "tools" / "run_docs.py"


def fences(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    lines = "\n".join(fences(page, "bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("deepgen ") and line != "deepgen --version"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_examples_compile_and_import_what_there_is(page: Path) -> None:
    for code in fences(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deepgen"):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_parse(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the files that the page has its reader write: a recipe of one's own is run to see its fields."""
    monkeypatch.chdir(tmp_path)
    for name, content in re.findall(
        r"<!-- run: write (\S+) -->\n```\w+\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL
    ):
        (tmp_path / name).write_text(content)
    for command in commands(page):
        arguments = [word for word in shlex.split(command, comments=True)[1:] if word != "--help"]
        assert parse(Command, arguments, "") is not None, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    asked = re.findall(r"`make ([a-z-]+)", page.read_text())
    asked += re.findall(r"^make ([a-z-]+)", "\n".join(fences(page, "bash")), flags=re.MULTILINE)
    assert set(asked) <= targets


@pytest.mark.parametrize(
    "line", re.findall(r"^\w+ \?= \w+/.*", (ROOT / "Makefile").read_text(), re.MULTILINE)
)
def test_folders_that_the_makefile_names_exist(line: str) -> None:
    assert (ROOT / line.split("= ")[1]).exists(), line


# --- names of files and functions

SOURCE = ROOT / "src" / "deepgen"
FILE = re.compile(r"(?<![\w/.{}*-])[A-Za-z_]+(?:/\w+)+\.py\b")
# In repositories of others, as benchmarks and diffusers name them.
OF_OTHERS = {
    *(
        "eval/utils.py",
        "WISE_legacy/gpt_eval.py",
        "viescore/vie_prompts.py",
        "GEdit-Bench/viescore/vie_prompts.py",
    ),
    "src/diffusers/__init__.py",
}
CODE = [
    path
    for folder in ("src", "tools", "benchmarks", "examples", "integrations")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".yaml", ".toml", ".sh")
]


def missing_files(path: Path) -> list[str]:
    """Python files that a text names, with a folder, and that are not where it says."""
    named = {name for name in FILE.findall(path.read_text()) if "NAME" not in name} - OF_OTHERS
    places = (ROOT, SOURCE, SOURCE.parent, ROOT / "tests", path.parent)
    return sorted(name for name in named if not any((place / name).is_file() for place in places))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name
)
def test_files_that_a_page_names_exist(page: Path) -> None:
    assert not missing_files(page)


def test_files_that_comments_and_docstrings_name_exist() -> None:
    found = {str(path.relative_to(ROOT)): missing_files(path) for path in CODE if path.name != "old_paths.py"}
    assert not {path: names for path, names in found.items() if names}


def test_a_file_that_is_gone_is_found(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("`train/loop.py`, `training/loop.py`, src/deepgen/cli/NAME.py")
    assert missing_files(tmp_path / "page.md") == ["train/loop.py"]


def defined_names(path: Path) -> set[str]:
    """Functions, classes, and methods as `Class.method` and `method`, of a file."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = [one.name for one in node.body if isinstance(one, ast.FunctionDef)]
            names |= {*methods, *(f"{node.name}.{method}" for method in methods)}
    return names


def missing_names(text: str) -> list[str]:
    """Dotted names of modules, functions and classes of ours that a text names and that are not there."""
    missing = []
    groups = {f"deepgen.{kind}s" for kind in ("reward", "source", "objective", "benchmark", "recipe")}
    for name in (
        set(re.findall(r"(?<![\w./-])deepgen(?:\.[A-Za-z_]\w*)+(?!\w*\()", text)) - groups
    ):  # of entry points
        parts, path = name.split(".")[1:], SOURCE
        while parts and (path / parts[0]).is_dir():
            path /= parts.pop(0)
        if parts and (path / f"{parts[0]}.py").is_file():
            path /= f"{parts.pop(0)}.py"
        file = path if path.is_file() else path / "__init__.py"
        if not file.is_file() or (parts and ".".join(parts) not in defined_names(file)):
            missing.append(name)
    return sorted(missing)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name
)
def test_dotted_names_of_a_page_are_there(page: Path) -> None:
    assert not missing_names(page.read_text())


def test_a_dotted_name_that_is_gone_is_found() -> None:
    text = "`deepgen.train.loop`, `deepgen.training.loop.train`, `deepgen.training.loop.Engine`, deepgen.cli"
    assert missing_names(text) == ["deepgen.train.loop", "deepgen.training.loop.Engine"]


def missing_imports(path: Path) -> list[str]:
    """Modules of ours that a file imports and that are not there."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    ours = [name for name in names if name.startswith("deepgen.")]
    files = {name: SOURCE.joinpath(*name.split(".")[1:]) for name in ours}
    return sorted(
        name for name in ours if not (files[name].is_dir() or files[name].with_suffix(".py").is_file())
    )


def test_scripts_import_modules_of_today() -> None:
    scripts = [path for path in CODE if path.suffix == ".py" and SOURCE not in path.parents]
    assert len(scripts) > 30
    found = {str(path.relative_to(ROOT)): missing_imports(path) for path in scripts}
    assert not {path: names for path, names in found.items() if names}


def places(line: str) -> list[tuple[Path, list[str]]]:
    """Files and folders of a table's row, each with the names that stand behind it: `a.py`: `f`, `g`."""
    found: list[tuple[Path, list[str]]] = []
    named = False
    for before, token in re.findall(r"([^`]*)`([^`]+)`", line):
        if re.fullmatch(r"[\w/]+(\.py|/)", token):
            beside = found[-1][0].parent if found and "/" not in token.rstrip("/") else SOURCE
            path = beside / token if (beside / token).exists() else SOURCE / token
            found.append((path, []))
            named = False
        elif found and (before == ": " or (named and before == ", ")):
            found[-1][1].append(token)
            named = True
        else:
            named = False
    return found


ROWS = [line for line in (ROOT / "docs" / "architecture.md").read_text().splitlines() if ".py`" in line]


@pytest.mark.parametrize("line", ROWS, ids=lambda line: line[:50])
def test_the_page_on_architecture_names_files_and_functions_of_today(line: str) -> None:
    rows = places(line)
    assert rows
    for path, names in rows:
        assert path.exists(), f"{path.relative_to(ROOT)}: {line}"
        assert not set(names) - (defined_names(path) if path.is_file() else set(names)), line


def test_the_three_walks_name_functions() -> None:
    named = {name for line in ROWS for _, names in places(line) for name in names}
    assert {
        "DeepGenPipeline.__call__",
        "FlowMatchingObjective.forward",
        "RewardEnsemble.collect",
        "_run",
    } <= named
    assert len(named) > 35


# --- running


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/run_docs.py, which is no package."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("run_docs")


def run(*arguments: str | Path) -> str:
    """What the runner says; fails where a block did."""
    command = [sys.executable, str(RUNNER), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


def test_what_the_readme_shows_runs_in_an_empty_folder_and_draws_and_edits(tmp_path: Path) -> None:
    said = run("--preloaded", "--fast", "--into", tmp_path / "page", ROOT / "README.md")
    assert "0 failed" in said
    for name in ("cat", "dog", "cow"):
        found = read(Image.open(tmp_path / "page" / f"{name}.png"))
        assert [thing.noun for thing in found.things] == [name]
    word = read(Image.open(tmp_path / "page" / "open.png")).word
    assert word is not None
    assert word.text == "OPEN"


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_runs(page: Path) -> None:
    run(page)


@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_page_says_how_its_blocks_run_in_known_words(page: Path, runner: ModuleType) -> None:
    text = page.read_text()
    blocks = runner.read_blocks(page)
    assert sum(block.language in ("python", "bash") for block in blocks) == len(
        re.findall(r"^```(?:python|bash)$", text, flags=re.MULTILINE)
    )
    assert not re.findall(r"^```\ndeepgen |^    deepgen ", text, flags=re.MULTILINE), "in no block that runs"
    for block in blocks:
        assert not block.skip or len(block.skip.split()) > 3, f"{block} is skipped without a reason"


PAGE = """
```bash
pip install 'something[extra]'
make demo
echo one > one.txt; test -z "$DEEPGEN_MODEL"
```

```python
assert open("one.txt").read() == "one\\n"
import deepgen
```

<!-- run: exit 3; needs deepgen -->
<!-- run: replace exit 4 -> exit 3; replace exit 5 -> -->
```bash
bash -c 'exit 4'
echo exit 5
```

<!-- run: needs no_such_package -->
```python
import no_such_package
```

<!-- run: skip it would take all night -->
```bash
sleep 100000
```

<!-- run: write folder/hello.txt -->
```text
hello
```

```bash
cat folder/hello.txt  # and no more
cat missing.txt
```

```python
raise ValueError("a reason")
```
"""


def test_the_runner_says_what_ran_what_was_substituted_and_what_failed(
    runner: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    results = list(runner.run_page(tmp_path / "page.md"))
    expected = ["substituted", "ran", "substituted", "skipped", "skipped", "ran", "failed", "failed"]
    assert [result.status for result in results] == expected
    assert "left out `pip ...`" in results[0].notes[0]
    assert "missing.txt" in results[6].output
    assert "a reason" in results[7].output
    said = runner.summary(results)
    assert "8 blocks: 2 ran as they stand, 2 with something substituted, 2 were skipped, 2 failed" in said
    assert "no_such_package is not installed" in said
    assert "it would take all night" in said


@pytest.mark.parametrize(
    ("comment", "words"),
    [
        ("quickly", "unknown words 'quickly'"),
        ("skip", "unknown words 'skip'"),
        ("replace x -> y", "replaces 'x', which the block does not hold"),
    ],
)
def test_a_comment_that_means_nothing_is_an_error(
    comment: str, words: str, runner: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "page.md").write_text(f"<!-- run: {comment} -->\n```bash\necho one\n```\n")
    with pytest.raises(ValueError, match=words):
        runner.read_blocks(tmp_path / "page.md")


def test_a_comment_above_no_block_is_an_error(runner: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("<!-- run: skip for good reason -->\n\n```bash\necho one\n```\n")
    with pytest.raises(ValueError, match="stand above no block"):
        runner.read_blocks(tmp_path / "page.md")
