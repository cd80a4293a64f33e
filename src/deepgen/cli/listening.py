"""What commands that listen on a port have in common: who may ask has to be decided before others can."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepgen.addresses import is_loopback

if TYPE_CHECKING:
    from deepgen.serving.config import ApiKeys


def check_who_may_ask(host: str, keys: ApiKeys, allow_anyone: bool) -> None:
    """ValueError where other machines reach the server, no key is asked for and nobody said that this is
    meant.
    """
    if keys.is_open and not allow_anyone and not is_loopback(host):
        raise ValueError(
            f"--host {host} can be reached from other machines; give --api-key-file, or "
            "--allow-anyone where something in front checks who asks"
        )
