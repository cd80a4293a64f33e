"""The figures that say how easily the package is read, beside their targets.

    python tools/house_figures.py [SOURCE]

SOURCE is the folder of a `deepgen` package, this checkout's by default, so that two states can be compared.
The text is read, nothing is imported. What a figure counts is said in its function.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Where things are, newest place first: the figures of an older layout can be taken as well.
RL_LOOP = ("rl.stage", "train.stages.rl")
BENCHMARKS = ("evaluation.benchmarks", "eval.benchmarks")
TINY_BENCHMARKS = ("tiny.evaluation.benchmark",)
SERVERS = ("serving", "serve")
# What the core is without: the embedded world, the planner, pages and doors that a run does not need.
BESIDE_THE_CORE = (
    *("shapes", "tiny", "planning", "data.sources.shapes", "data.sources.storybook"),
    *("commands.ui", "commands.mcp", "cli.ui", "cli.mcp"),
    *(
        f"{server}.{name}"
        for server in SERVERS
        for name in ("gradio_app", "mcp_tools", "provenance", "tracing")
    ),
    *("eval.report_page", "eval.benchmarks.shapes", "evaluation.report_page"),
    *("evaluation.benchmarks.shapes", "evaluation.benchmarks.storybook", "eval.benchmarks.storybook"),
)
_CARRIED = re.compile(r"(num_)?(reward|score|verdict|advantage|total|result)s?")
_LONGEST = 60  # lines of a function
_BROAD = {"Exception", "BaseException"}


@dataclass(frozen=True)
class Module:
    """A file of the package: its dotted name below `deepgen` and its text."""

    name: str
    path: Path

    @cached_property
    def lines(self) -> list[str]:
        """Of its text."""
        return self.path.read_text(encoding="utf-8").splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax."""
        return ast.parse("\n".join(self.lines))


@dataclass(frozen=True)
class Package:
    """All modules of a source folder."""

    folder: Path

    @cached_property
    def modules(self) -> dict[str, Module]:
        """By dotted name below `deepgen`; the top itself is ""."""
        found = {}
        for path in sorted(self.folder.rglob("*.py")):
            parts = path.relative_to(self.folder).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = Module(name, path)
        return found

    def imports(self, name: str, *, lazy: bool = True) -> set[str]:
        """Modules of the package a module imports, those for types included; `lazy`: inside functions too."""
        found = (self._module_of(target) for target in imported(self.modules[name].tree, lazy=lazy))
        return {module for module in found if module is not None and module != name}

    def closure(self, start: Iterable[str], *, lazy: bool) -> set[str]:
        """What is reached from some modules, themselves included.

        An `__init__` counts where a name is imported from it, not where it is only passed.
        """
        seen: set[str] = set()
        todo = list(start)
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += self.imports(name, lazy=lazy)
        return seen

    def num_lines(self, names: Iterable[str]) -> int:
        """All lines of some modules, empty ones and comments too."""
        return sum(len(self.modules[name].lines) for name in names)

    def first(self, names: Sequence[str]) -> str:
        """The first of some modules that there is."""
        for name in names:
            if name in self.modules:
                return name
        raise ValueError(f"{self.folder} has none of {', '.join(names)}; add the new place to {__file__}")

    def below(self, name: str) -> list[str]:
        """Modules of a folder, without its own `__init__`."""
        return [module for module in self.modules if module.startswith(f"{name}.")]

    def _module_of(self, target: str) -> str | None:
        if target != "deepgen" and not target.startswith("deepgen."):
            return None
        name = target.removeprefix("deepgen").removeprefix(".")
        while name not in self.modules:
            name = name.rpartition(".")[0]
        return name


def imported(node: ast.AST, *, lazy: bool) -> Iterator[str]:
    """Dotted names of everything that is imported below a node of the syntax."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module is not None:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        if lazy or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imported(child, lazy=lazy)


def cycles(package: Package) -> list[list[str]]:
    """Groups of modules that import each other in a ring (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(package.imports(name)):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            ring = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(ring) > 1:
                found.append(sorted(ring))

    for name in package.modules:
        if name not in index:
            visit(name)
    return found


def long_functions(package: Package) -> list[tuple[str, int]]:
    """(where, lines) of functions over 60 lines, without signature and docstring."""
    found = []
    for module in package.modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                has_docstring = ast.get_docstring(node) is not None
                body = node.body[1:] if has_docstring else node.body
                length = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                if length > _LONGEST:
                    found.append((f"{module.name}.{node.name}", length))
    return found


def broad_excepts(package: Package) -> list[str]:
    """Where everything is caught, with no comment on the line; one that raises again needs none."""
    found = []
    for module in package.modules.values():
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            is_broad = any(
                kind is None or (isinstance(kind, ast.Name) and kind.id in _BROAD) for kind in kinds
            )
            passes_on = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
            if is_broad and not passes_on and "#" not in module.lines[node.lineno - 1]:
                found.append(f"{module.name}:{node.lineno}")
    return found


def carriers(package: Package) -> list[str]:
    """Dataclasses a reward value travels in, from the reward that gives it to the loss.

    Counted are dataclasses and named tuples of `rewards` (its scorers aside) and of all that belongs to RL,
    which have a field called reward, score, verdict, result, advantage or total (or its plural), or a field
    whose type is such a class. Settings (...Config, ...Options, ...Limits, ...Settings) do not carry a value,
    nor does the search for a guidance scale, which trains nothing.
    """
    today, before = r"rl\.(?!guidance_search)", r"train\.(rl_|stages\.rl$|rollouts|experience|policy)"
    is_rl = re.compile(rf"(rewards\.(?!scorers\.)|{today}|{before}).*")
    classes = {
        f"{module.name}.{node.name}": node
        for module in package.modules.values()
        if is_rl.match(module.name)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and _is_record(node)
    }
    found: set[str] = set()
    while True:
        names = {name.rpartition(".")[2] for name in found}
        more = {name for name, node in classes.items() if _carries(node, names)} - found
        if not more:
            return sorted(found)
        found |= more


def _is_record(node: ast.ClassDef) -> bool:
    marks = " ".join(ast.unparse(mark) for mark in (*node.decorator_list, *node.bases))
    is_settings = re.search(r"(Config|Options|Limits|Settings)$", node.name) is not None
    return ("dataclass" in marks or "NamedTuple" in marks) and not is_settings


def _carries(node: ast.ClassDef, others: set[str]) -> bool:
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            words = set(re.findall(r"\w+", ast.unparse(field.annotation)))
            if "Callable" not in words and (_CARRIED.fullmatch(field.target.id) or words & others):
                return True
    return False


def figures(package: Package) -> list[tuple[str, str, str]]:
    """(what, today, target) of each figure of house.md "Expected"."""
    rows = [
        ("lines of src/deepgen (*.py)", f"{package.num_lines(package.modules):,}", "about 34,000"),
        ("files", str(len(package.modules)), "about 200"),
    ]

    def reach(what: str, starts: Sequence[str], target: str) -> None:
        """Modules named in an import statement, directly and through others."""
        for lazy, how in ((False, "at the top"), (True, "and inside functions")):
            sets = [package.closure([start], lazy=lazy) for start in starts]
            largest = max(sets, key=lambda names: (len(names), package.num_lines(names)))
            lines = package.num_lines(largest)
            which = starts[sets.index(largest)].rpartition(".")[2] if len(starts) > 1 else ""
            rows.append((f"{what}, imports {how}", f"{len(largest)} / {lines:,} {which}".strip(), target))

    reach("RL loop: modules / lines", [package.first(RL_LOOP)], "45 / 9,000")
    benchmarks = package.below(package.first(BENCHMARKS))
    benchmarks += [name for name in TINY_BENCHMARKS if name in package.modules]
    reach("one benchmark, the largest: modules / lines", benchmarks, "12 / 2,000")
    server = package.first(SERVERS)
    passed = package.closure([f"{server}.app", f"{server}.worker"], lazy=False)
    passed = {name for name in passed if name.startswith(server)}
    rows.append((f"HTTP: files of {server}/ behind its app and its worker", str(len(passed)), "21"))
    rows.append(("classes that carry a reward value", str(len(carriers(package))), "7"))
    core = [
        name for name in package.modules if not f"{name}.".startswith(tuple(f"{x}." for x in BESIDE_THE_CORE))
    ]
    rows.append(("core lines", f"{package.num_lines(core):,}", "28,000"))
    rows.append(("functions over 60 lines", str(len(long_functions(package))), "0"))
    rows.append(("import cycles, those for types included", str(len(cycles(package))), "0"))
    rows.append(("broad excepts without a reason", str(len(broad_excepts(package))), "0"))
    return rows


def main() -> None:
    """Print the table, and what stands behind the last figures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "src" / "deepgen"
    if not (folder / "__init__.py").is_file():
        sys.exit(f"{folder} is no package; give the folder of a deepgen package, such as src/deepgen")
    package = Package(folder)
    rows = figures(package)
    width = max(len(row[0]) for row in rows)
    print(f"{'':{width}}  {'today':>22}  target")
    for what, today, target in rows:
        print(f"{what:{width}}  {today:>22}  {target}")
    print(f"\ncarriers: {', '.join(carriers(package))}")
    for where, length in long_functions(package):
        print(f"over {_LONGEST} lines: {where} ({length})")
    for ring in cycles(package):
        print(f"cycle: {', '.join(ring)}")
    for where in broad_excepts(package):
        print(f"broad except: {where}")


if __name__ == "__main__":
    main()
