"""Any reward that a service offers: start it with `deepgen rewards serve NAME`, name its address here."""

from __future__ import annotations

from deepgen.rewards.client import RemoteOptions, RemoteReward


class Remote(RemoteReward):
    """What the service at `url` says it is."""


options, reward = RemoteOptions, Remote
