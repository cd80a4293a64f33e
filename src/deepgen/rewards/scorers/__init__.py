"""The rewards there are: one file each, and the file's name is the reward's name.

Such a file defines `options`, a frozen dataclass of what may be set, and `reward`, a class that is made from
those options and keeps the contract of `deepgen.rewards.reward.Reward`. What a class declares (`kind`,
`needs`, `low`, `high`) can be asked without making one.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from deepgen import config
from deepgen.rewards.reward import Reward


def reward_names() -> list[str]:
    """The rewards there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def make_reward(name: str, **options: Any) -> Reward:
    """A reward by its name; ValueError lists unknown names and everything wrong with the options."""
    problems = option_problems(name, options)
    if problems:
        raise ValueError(f"reward {name}: {'; '.join(problems)}")
    module = _module(name)
    return module.reward(config.build(module.options, options))


def reward_class(name: str) -> type[Reward]:
    """The class behind a name: its docstring says what it measures, its attributes what it declares."""
    return _module(name).reward


def option_problems(name: str, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with a reward's options, all at once; looks at no file and asks no service."""
    if name not in reward_names():
        return [f"unknown reward {name!r}; known: {', '.join(reward_names())}"]
    return config.problems_with(_module(name).options, options, name)


def options_from_text(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Options as a command line gives them; lists are separated by commas. Nothing is checked beyond that."""
    return config.from_texts(_module(name).options, texts)


def _module(name: str) -> Any:
    if name not in reward_names():
        raise ValueError(f"unknown reward {name!r}; known: {', '.join(reward_names())}")
    return importlib.import_module(f"{__name__}.{name}")
