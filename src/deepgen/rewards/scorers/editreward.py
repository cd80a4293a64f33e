"""EditReward (2025): a reward model for edits, which sees the source, the result and the instruction.

Its score has no bound. The model brings its own code, so it is hosted by a service that keeps our protocol.
"""

from __future__ import annotations

from deepgen.rewards.client import RemoteOptions, RemoteReward


class EditReward(RemoteReward):
    """The first output of EditReward for (first reference, picture, instruction)."""

    needs = ("references",)
    _declares = True


options, reward = RemoteOptions, EditReward
