"""Old import paths answer for one release, and say where things are now."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from deepgen import moved

SOURCE = Path(moved.__file__).parent


@pytest.mark.parametrize("old", sorted(moved.MODULES))
def test_an_old_module_gives_the_new_ones_names_and_names_it(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {moved.MODULES[old]};") as caught:
        stand_in = importlib.import_module(old)
    home = importlib.import_module(moved.MODULES[old])
    names = [name for name in vars(home) if not name.startswith("__")]
    assert all(getattr(stand_in, name) is getattr(home, name) for name in names)
    with pytest.raises((AttributeError, ImportError)):
        stand_in.no_such_name  # noqa: B018
    assert caught


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [(module, old, new) for module, names in moved.NAMES.items() for old, new in names.items()],
)
def test_an_old_name_gives_what_it_is_called_now(module: str, old: str, new: str) -> None:
    home = moved.MODULES.get(module, module)
    with pytest.warns(DeprecationWarning, match=f"{module}.{old} is now {home}.{new};"):
        found = getattr(importlib.import_module(module), old)
    assert found is getattr(importlib.import_module(home), new)


def test_the_warning_points_at_the_line_that_imports() -> None:
    code = "from deepgen.diffusion.losses import interpolate\nfrom deepgen.train.policy import Asked\n"
    done = subprocess.run(
        [sys.executable, "-W", "always::DeprecationWarning:__main__", "-c", code],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stderr.splitlines() if "goes with the next release" in line]
    assert [line.split(":")[1] for line in lines] == ["1", "1", "2"]
    assert all(line.startswith("<string>") for line in lines)


def test_nothing_of_ours_uses_an_old_module_or_hides_one() -> None:
    for old in moved.MODULES:
        path = SOURCE.parent.joinpath(*old.split("."))
        assert not path.with_suffix(".py").exists()
        assert not (path / "__init__.py").exists()
    for path in SOURCE.rglob("*.py"):
        if path.name != "moved.py":
            text = path.read_text()
            assert not any(f"{old} " in text or f"{old}." in text for old in moved.MODULES), path
