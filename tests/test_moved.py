"""Old import paths: every module and every name of folders that have another name now.

`old_names.json` holds them, as they were read from its source.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from deepgen.old_paths import FOLDERS, MODULES

OLD = json.loads((Path(__file__).parent / "old_names.json").read_text())


def warned(action) -> tuple[object, list[str]]:
    """(the result, the messages of DeepGen's own deprecation warnings)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = action()
    messages = [str(one.message) for one in caught if issubclass(one.category, DeprecationWarning)]
    return result, [message for message in messages if message.startswith(("deepgen.", "RewardResult"))]


@pytest.mark.parametrize("name", OLD)
def test_every_old_module_and_name_is_there_and_names_the_new_one(name: str) -> None:
    is_old = name in MODULES or f"{name}.".startswith(tuple(f"{folder}." for folder in FOLDERS))
    sys.modules.pop(name, None) if is_old else None
    module, said = warned(lambda: importlib.import_module(name))
    if is_old:
        (message,) = (one for one in said if one.startswith(f"{name} is now "))
        importlib.import_module(message.removeprefix(f"{name} is now "))
    for old in OLD[name]:
        is_new = old in vars(module)
        value, said = warned(lambda old=old: getattr(module, old))
        assert value is not None
        if is_new or (is_old and not said):
            continue
        (message,) = said
        target = message.removeprefix(f"{name}.{old} is now ")
        home, _, attribute = target.rpartition(".")
        assert getattr(importlib.import_module(home), attribute) is value


def test_the_warning_points_at_the_line_that_uses_the_old_name(tmp_path: Path) -> None:
    script = tmp_path / "old.py"
    script.write_text("import sys\n\nimport deepgen.eval.forms\nfrom deepgen.rewards.panel import Panel\n")
    done = subprocess.run(
        [sys.executable, "-W", "default", script], capture_output=True, text=True, check=True
    )
    assert (
        "old.py:3: DeprecationWarning: deepgen.eval.forms is now deepgen.evaluation.response_schema"
        in done.stderr
    )
    assert "old.py:4: DeprecationWarning: deepgen.rewards.panel.Panel is now " in done.stderr


def test_old_calls_still_work() -> None:
    from deepgen.eval.judge import Judge, JudgeConfig, Query

    from deepgen.rewards.reward import Verdict

    judge = Judge(JudgeConfig(url="http://127.0.0.1:9/v1", model="m"), cache_dir=None, prompts_dir=None)
    assert judge.version == "m-t0"
    assert Query(text="q", side=8).content == ("q",)
    result, said = warned(lambda: Verdict(0.5, "why").words)
    assert result == "why"
    assert "RewardResult.words is now RewardResult.reason" in said


def test_a_name_that_never_was_is_an_attribute_error() -> None:
    module = importlib.import_module("deepgen.eval.judge")
    with pytest.raises(AttributeError, match="nothing"):
        module.nothing  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match=r"deepgen\.eval\.nothing"):
        importlib.import_module("deepgen.eval.nothing")
    with pytest.raises(ImportError, match="Pannel"):
        exec("from deepgen.rewards.panel import Pannel")
