"""The documentation site and the wheel: every page is in the navigation, links lead on, both can be built."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import pytest
import yaml

import javascript

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


class _Loader(yaml.SafeLoader):
    """mkdocs.yml names functions of Python with tags of its own; here they are read as text."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
CONFIG: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/docs_site.py, which is no package."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("docs_site")


def pages(entries: Any) -> Iterator[str]:
    """The pages that a navigation names."""
    if isinstance(entries, str):
        yield entries
    else:
        for entry in entries.values() if isinstance(entries, dict) else entries:
            yield from pages(entry)


def test_the_navigation_names_every_page_of_docs_once() -> None:
    named = list(pages(CONFIG["nav"]))
    assert sorted(named) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_every_public_module_has_a_page_in_the_navigation(hook: ModuleType) -> None:
    modules = hook.public_modules()
    assert {"deepgen", "deepgen.pipeline", "deepgen.models.dit"} <= set(modules)
    named = list(pages(hook.module_nav("deepgen", modules)))
    assert sorted(named) == sorted(hook.module_uri(name) for name in modules)
    assert all(hook.module_file(name).is_file() for name in modules)


def test_links_of_pages_outside_of_docs_lead_to_pages_of_the_site(hook: ModuleType) -> None:
    assert hook.target_path("project/contributing.md", "tests/x.py") == PurePosixPath("tests/x.py")
    assert hook.site_uri(PurePosixPath("docs/tiny/README.md")) == "tiny/README.md"
    assert hook.site_uri(PurePosixPath("CONTRIBUTING.md")) == "project/contributing.md"
    shown = hook.linked_files()
    assert shown["project/files/NOTICE.md"] == ROOT / "NOTICE"
    assert all(path.is_file() for path in shown.values())


def test_comments_that_run_blocks_are_not_on_the_site_and_code_stays(hook: ModuleType) -> None:
    class Here:
        class file:
            src_uri = "tutorials/edit.md"

    text = "[a](../../NOTICE)\n\n<!-- run: slow -->\n```bash\n# [b](../x.md)\n```\n[c](../edit.md#sizes)\n"
    said = hook.on_page_markdown(text, Here, None, None)
    assert said == (
        "[a](../project/files/NOTICE.md)\n\n```bash\n# [b](../x.md)\n```\n[c](../edit.md#sizes)\n"
    )


def test_nothing_of_the_site_comes_from_elsewhere() -> None:
    assert CONFIG["theme"]["font"] is False
    assert not re.search(r"https?://", (DOCS / "css" / "site.css").read_text())
    assert {"search", "offline"} <= {
        next(iter(one)) if isinstance(one, dict) else one for one in CONFIG["plugins"]
    }


def test_the_pages_are_opened_where_the_javascript_tests_lie() -> None:
    assert (javascript.FOLDER / "site.test.mjs").is_file()
    assert (javascript.FOLDER / "package.json").is_file()


def test_the_readme_is_at_most_120_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_start_page_shows_what_the_script_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    script = importlib.import_module("site_images")
    assert f"{script.MARK}\n{script.figures()}\n{script.END}" in script.PAGE.read_text()
    names = {drawing.name for drawing in [*script.DRAWN, *script.EDITED]}
    assert {path.stem for path in script.FOLDER.iterdir()} == names


@pytest.mark.parametrize("name", ["ci", "slow"])
def test_workflows_call_targets_of_the_makefile_on_the_supported_versions(name: str) -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for job in workflow["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        commands = [step["run"] for step in job["steps"] if "run" in step]
        called = {command.removeprefix("make ") for command in commands}
        assert {target for target in called if "{" not in target} | set(matrix.get("target", [])) <= targets
    if name == "ci":
        supported = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
        assert workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"] == supported


# --- slow


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly."""
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        pytest.skip("the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(site: Path) -> None:
    texts = {path: path.read_text() for path in site.rglob("*.html")}
    assert len(texts) > 300
    outside = {
        address
        for text in texts.values()
        for address in re.findall(
            r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(https?://[^\" >]+)", text
        )
    }
    assert not outside


@pytest.mark.slow
@pytest.mark.parametrize("needed", [pytest.param("", marks=javascript.needs("puppeteer-core"))])
def test_every_page_fits_a_desktop_and_a_phone_and_the_search_finds(site: Path, needed: str) -> None:
    javascript.run("site.test.mjs", DEEPGEN_SITE=str(site))


@pytest.mark.slow
def test_the_wheel_installs_and_draws() -> None:
    command = [sys.executable, str(ROOT / "tools" / "check_wheel.py"), "--borrow"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "drew a picture" in done.stdout
