"""Old import paths answer for one release and name the new path."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import deepgen
from deepgen.old_paths import FOLDERS, MODULES
from deepgen.old_paths import NAMES as MOVED_NAMES

# Names that changed in modules that stayed.
NAMES = {
    **MOVED_NAMES,
    "deepgen.training.benchmarks": {
        "BenchmarkValidation": "deepgen.training.benchmark_validation.BenchmarkValidation"
    },
    "deepgen.rl.advantages": {"Advantages": "deepgen.rl.advantages.AdvantageBatch"},
    "deepgen.rewards.ensemble": {"Scores": "deepgen.rewards.reward_batch.RewardBatch"},
}
SOURCE = Path(deepgen.__file__ or "").parent


@pytest.mark.parametrize("old", sorted(MODULES))
def test_an_old_module_gives_the_new_ones_names_and_names_it(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {MODULES[old]}"):
        stand_in = importlib.import_module(old)
    home = importlib.import_module(MODULES[old])
    names = [name for name in vars(home) if not name.startswith("__")]
    assert len(names) > 2
    assert all(getattr(stand_in, name) is getattr(home, name) for name in names)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [(module, old, new) for module, names in NAMES.items() for old, new in names.items()],
)
def test_an_old_name_gives_what_it_is_called_now(module: str, old: str, new: str) -> None:
    home, _, name = new.rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"{module}.{old} is now {new}"):
        found = getattr(importlib.import_module(module), old)
    assert found is getattr(importlib.import_module(home), name)


def test_the_warning_points_at_the_line_that_imports() -> None:
    code = "from deepgen.diffusion.losses import interpolate\nfrom deepgen.train.policy import Asked\n"
    command = [sys.executable, "-W", "always::DeprecationWarning:__main__", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if " is now deepgen." in line]
    assert [line.split(":")[:2] for line in lines] == [["<string>", number] for number in "11222"]


def test_nothing_of_ours_imports_an_old_path() -> None:
    old = {*FOLDERS, *MODULES}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not f"{node.module}.".startswith(tuple(f"{folder}." for folder in FOLDERS)), path
                assert node.module not in old, path
                assert not {f"{node.module}.{alias.name}" for alias in node.names} & old, path
