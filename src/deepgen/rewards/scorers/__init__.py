"""The rewards there are: one file each, and the file's name is the reward's name.

Such a file defines `options`, a frozen dataclass of what may be set, and `reward`, a class that is made from
those options and keeps the contract of `deepgen.rewards.reward.Reward`. What a class declares (`kind`,
`needs`, `low`, `high`) can be asked without making one. A name may also be the place of one of the user's
own, `mine.py:redness`: such a class, or a function of a candidate (rewards/own.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepgen.registry import Registry
from deepgen.rewards.reward import Reward


def _adapted(place: str, found: Any, digest: str) -> Any:
    from deepgen.rewards.own import adapted  # here: of use to rewards from elsewhere only

    return adapted(place, found, digest)


_TINY = {name: f"deepgen.tiny.rewards.{name}" for name in ("storybook", "storybook_kept")}
REWARDS = Registry("reward", __name__, __path__, _TINY, adapt=_adapted)


def reward_names() -> list[str]:
    """The rewards there are."""
    return REWARDS.names()


def make_reward(name: str, **options: Any) -> Reward:
    """A reward by its name; ValueError lists unknown names and everything wrong with the options."""
    return REWARDS.make(name, options)


def reward_class(name: str) -> type[Reward]:
    """The class behind a name: its docstring says what it measures, its attributes what it declares."""
    return REWARDS.load(name).reward


def option_problems(name: str, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with a reward's options, all at once; looks at no file and asks no service."""
    return REWARDS.option_problems(name, options)


def options_from_text(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Options as a command line gives them; lists are separated by commas. Nothing is checked beyond that."""
    return REWARDS.options_from_text(name, texts)
