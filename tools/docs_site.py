"""What the documentation site has beside the pages of docs/: a hook of mkdocs, named in mkdocs.yml.

Added are the pages that lie outside of docs/ (`OUTSIDE`), every other file of the repository that a page
links to, shown as text, and one page for each public module, which mkdocstrings fills from its docstrings.
Modules are found, not listed, so moving one needs no change here. Comments that say how blocks are run are
left out.

A page is the same on the site and in a checkout: its links are relative to its place in the repository, and
are turned into links of the site here.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
OUTSIDE = {
    "integrations/comfyui/README.md": "comfyui.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
}
TITLES = {
    "comfyui.md": "ComfyUI",
    "project/contributing.md": "Contributing",
    "project/changelog.md": "Changelog",
}
LANGUAGES = {".py": "python", ".json": "json", ".yaml": "yaml", ".toml": "toml", ".sbatch": "bash"}
_LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))")
_COMMENT = re.compile(r"^<!-- [^\n]*? -->\n", re.MULTILINE)
_FENCE = re.compile(r"^(```+).*?^\1", re.MULTILINE | re.DOTALL)


# --- pages outside of docs/


def origin(uri: str) -> PurePosixPath:
    """Where a page of the site lies in the repository."""
    for path, page in OUTSIDE.items():
        if page == uri:
            return PurePosixPath(path)
    return PurePosixPath("docs", uri)


def target_path(uri: str, target: str) -> PurePosixPath:
    """What a relative link of a page leads to, from the root of the repository."""
    return PurePosixPath(os.path.normpath(origin(uri).parent / target))


def site_uri(path: PurePosixPath) -> str:
    """The page or file of the site that shows a file of the repository."""
    if str(path) in OUTSIDE:
        return OUTSIDE[str(path)]
    if path.parts[0] == "docs":
        return str(PurePosixPath(*path.parts[1:]))
    return f"project/files/{path}.md"


def links(text: str) -> set[str]:
    """Relative targets that a page links to, without those inside code blocks."""
    targets = {match["target"] for match in _LINK.finditer(_FENCE.sub("", text))}
    return {target for target in targets if not re.match(r"[a-z]+:", target)}


def linked_files() -> dict[str, Path]:
    """Files outside of docs/ that some page links to: their page on the site, and where they lie."""
    pages = {path.relative_to(ROOT / "docs").as_posix(): path for path in (ROOT / "docs").rglob("*.md")}
    pages |= {uri: ROOT / path for path, uri in OUTSIDE.items()}
    found = {}
    for uri, page in pages.items():
        for target in links(page.read_text(encoding="utf-8")):
            path = target_path(uri, target)
            if path.parts[0] != "docs" and str(path) not in OUTSIDE and (ROOT / path).is_file():
                found[site_uri(path)] = ROOT / path
    return dict(sorted(found.items()))


def as_page(path: Path) -> str:
    """A file of the repository as a page that shows it."""
    text = path.read_text(encoding="utf-8").rstrip()
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`{3,}", text) or [""]))
    return f"# {path.relative_to(ROOT)}\n\n{fence}{LANGUAGES.get(path.suffix, 'text')}\n{text}\n{fence}\n"


# --- modules


def public_modules() -> list[str]:
    """Names of all modules that have a docstring and no underscore, packages before what they hold."""
    names = []
    for path in sorted((SOURCE / "deepgen").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts) and summary(path):
            names.append(".".join(parts))
    return sorted(names)


def summary(path: Path) -> str:
    """First line of a module's docstring; empty where there is none."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def module_file(name: str) -> Path:
    """The file of a module."""
    path = SOURCE.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def module_uri(name: str) -> str:
    """The page of a module."""
    return f"api/{name}.md"


def module_page(name: str, modules: list[str]) -> str:
    """The page of a module, filled by mkdocstrings; a package lists what it holds."""
    inside = [other for other in modules if other.rpartition(".")[0] == name]
    rows = [f"| [`{other}`]({other}.md) | {summary(module_file(other))} |" for other in inside]
    table = "\n".join(["| module | |", "|---|---|", *rows, "", ""]) if rows else ""
    return f"# {name}\n\n::: {name}\n\n{table}"


def module_nav(name: str, modules: list[str]) -> dict[str, Any]:
    """An entry of the navigation: a page, or a package with its pages."""
    inside = [other for other in modules if other.rpartition(".")[0] == name]
    title = name.rpartition(".")[2]
    if not inside:
        return {title: module_uri(name)}
    return {title: [{name: module_uri(name)}, *(module_nav(other, modules) for other in inside)]}


# --- what mkdocs calls


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and name them in the navigation."""
    from mkdocs.structure.files import File

    modules, shown = public_modules(), linked_files()
    pages = {uri: (ROOT / path).read_text(encoding="utf-8") for path, uri in OUTSIDE.items()}
    pages |= {uri: as_page(path) for uri, path in shown.items()}
    pages |= {module_uri(name): module_page(name, modules) for name in modules}
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    nav = {title: entries for section in config.nav or [] for title, entries in section.items()}
    nav["How-to"] = [*nav["How-to"], {TITLES["comfyui.md"]: "comfyui.md"}]
    nav["Reference"] = [*nav["Reference"], module_nav("deepgen", modules)]
    project = [{TITLES[uri]: uri} for uri in OUTSIDE.values() if uri.startswith("project/")]
    nav["Project"] = [*project, {"Files": [{path.name: uri} for uri, path in shown.items()]}]
    config.nav = [{title: entries} for title, entries in nav.items()]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave out comments for tools, and lead links to where the site shows their targets."""
    uri = page.file.src_uri
    if uri.startswith(("api/", "project/files/")):
        return markdown

    def lead(match: re.Match[str]) -> str:
        target = match["target"]
        if re.match(r"[a-z]+:", target):
            return match[0]
        here = PurePosixPath(uri).parent
        return os.path.relpath(site_uri(target_path(uri, target)), here) + (match["anchor"] or "")

    kept: list[str] = []
    text, last = _COMMENT.sub("", markdown), 0
    for fence in _FENCE.finditer(text):
        kept += [_LINK.sub(lead, text[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join([*kept, _LINK.sub(lead, text[last:])])
