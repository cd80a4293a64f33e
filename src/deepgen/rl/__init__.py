"""Reinforcement learning on pictures: sample, score, improve. Its mathematics knows no model."""

from deepgen.moved import keep_modules

OLD_MODULES = {
    "deepgen.rl.rollout": "deepgen.sampling.rollout",
    "deepgen.rl.windows": "deepgen.sampling.windows",
}

keep_modules(OLD_MODULES, {})
