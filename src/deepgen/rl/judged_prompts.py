"""Opening prompts together with the reward ensemble that scores their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepgen.data.prompts import PromptMix, is_mix, open_prompts
from deepgen.rewards.ensemble import RewardEnsemble, RewardEnsembleConfig
from deepgen.rewards.scorers import REWARDS, make_reward
from deepgen.user_files import named_by


def open_mix(path: Path, assignments: Sequence[str]) -> PromptMix:
    """A file of prompts, opened alone; arguments and errors are those of `open_judged_prompts`."""
    return open_prompts(path, _assigned(assignments)[1])


def refuse_unused_rewards(assignments: Sequence[str], *paths: Path | None) -> None:
    """Raise a ValueError where rewards are given and each of the files is a mix, which names its own."""
    mixes = [path for path in paths if path is not None]
    if assignments and all(is_mix(path) for path in mixes):
        raise ValueError(
            f"rewards {', '.join(assignments)} would not be used: {' and '.join(map(str, mixes))} names its "
            "own; change them there, or give a .txt, .jsonl or .parquet file of prompts"
        )


def open_judged_prompts(
    path: Path, assignments: Sequence[str], config: RewardEnsembleConfig
) -> tuple[PromptMix, RewardEnsemble]:
    """A file of prompts, opened, with its rewards made.

    Args:
        path: a mix (.yaml), which names its rewards, or a file of prompts.
        assignments: weights of the rewards of a file that names none, each `name=weight` or
            `PATH.py:NAME=weight`, which is called NAME from here on.
        config: of the ensemble.

    Raises:
        ValueError: an assignment is not `name=weight`, the file is wrong, or a reward is unknown.
    """
    scorers, weights = _assigned(assignments)
    mix = open_prompts(path, weights)
    rewards = {}
    for name in dict.fromkeys((*mix.reward_names, *mix.held_out)):
        options = dict(mix.rewards.get(name, {}))
        scorer = str(options.pop("scorer", name))
        rewards[name] = make_reward(scorers.get(scorer) or named_by(path, scorer, path.parent), **options)
    ensemble = RewardEnsemble(rewards, held_out=mix.held_out, config=config)
    for one in mix.sets:
        ensemble.check_weights(one.rewards)
    return mix, ensemble


def _assigned(assignments: Sequence[str]) -> tuple[dict[str, str], dict[str, float]]:
    """What makes each reward, and its weight, by the name it has in the log."""
    scorers: dict[str, str] = {}
    weights: dict[str, float] = {}
    for text in assignments:
        scorer, equals, weight = text.rpartition("=")
        try:
            value = float(weight)
        except ValueError:
            equals = ""
        if not equals:
            raise ValueError(f"reward {text!r} is not name=weight; try --rewards ocr=1.0 clip_sim=0.3")
        name = REWARDS.short(scorer)
        if name in scorers:
            raise ValueError(
                f"two rewards are called {name}: {scorers[name]} and {scorer}; give one another name"
            )
        scorers[name], weights[name] = scorer, value
    return scorers, weights
