"""Opening prompts together with the reward ensemble that scores their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepgen.data.prompts import PromptMix, open_prompts
from deepgen.rewards.ensemble import RewardEnsemble, RewardEnsembleConfig
from deepgen.rewards.scorers import make_reward


def open_mix(path: Path, assignments: Sequence[str]) -> PromptMix:
    """A file of prompts, opened alone; arguments and errors are those of `open_judged_prompts`."""
    wrong = [text for text in assignments if "=" not in text]
    if wrong:
        raise ValueError(f"reward {wrong[0]!r} is not name=weight; try --rewards ocr=1.0 clip_sim=0.3")
    pairs = (text.split("=", 1) for text in assignments)
    return open_prompts(path, {name: float(weight) for name, weight in pairs})


def open_judged_prompts(
    path: Path, assignments: Sequence[str], config: RewardEnsembleConfig
) -> tuple[PromptMix, RewardEnsemble]:
    """A file of prompts, opened, with its rewards made.

    Args:
        path: a mix (.yaml), which names its rewards, or a file of prompts.
        assignments: weights of the rewards of a file that names none, each `name=weight`.
        config: of the ensemble.

    Raises:
        ValueError: an assignment is not `name=weight`, the file is wrong, or a reward is unknown.
    """
    mix = open_mix(path, assignments)
    rewards = {}
    for name in dict.fromkeys((*mix.reward_names, *mix.held_out)):
        options = dict(mix.rewards.get(name, {}))
        rewards[name] = make_reward(str(options.pop("scorer", name)), **options)
    ensemble = RewardEnsemble(rewards, held_out=mix.held_out, config=config)
    for one in mix.sets:
        ensemble.check_weights(one.rewards)
    return mix, ensemble
