"""DeQA-Score (You et al., 2025): how good a picture looks, independent of its content; a fifth of its 1 to 5.

The model brings its own code, so it is hosted by a service of its own that keeps our protocol.
"""

from __future__ import annotations

from deepgen.rewards.client import RemoteOptions, RemoteReward


class DeQA(RemoteReward):
    """Technical quality in [0.2, 1]; a perfect picture of the wrong thing gets full marks."""

    low, high = 0.2, 1.0
    _declares = True


options, reward = RemoteOptions, DeQA
