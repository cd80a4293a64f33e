"""Old import path of `deepgen.rewards.ensemble`, for one release."""

from deepgen.moved import renamed

_NAMES = {
    "Panel": "RewardEnsemble",
    "PanelConfig": "RewardEnsembleConfig",
    "Submission": "Submission",
    "TooManyFailures": "TooManyFailures",
}
__getattr__ = renamed(
    __name__,
    {old: f"deepgen.rewards.ensemble.{new}" for old, new in _NAMES.items()}
    | {"Scores": "deepgen.rewards.reward_batch.RewardBatch"},
)
