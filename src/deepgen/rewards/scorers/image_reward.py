"""ImageReward (Xu et al., 2023): alignment and fidelity as people rated them, about a standard normal.

The published weights are of BLIP in a form of its own, which transformers does not load, so it is hosted by a
service that keeps our protocol.
"""

from __future__ import annotations

from deepgen.rewards.client import RemoteOptions, RemoteReward


class ImageReward(RemoteReward):
    """ImageReward-v1.0 of a picture and its prompt, unbounded, mostly within -2 and 2."""

    _declares = True


options, reward = RemoteOptions, ImageReward
