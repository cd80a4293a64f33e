"""Which addresses are this machine's own. Apart from the client: help on the command line needs no HTTP."""

from __future__ import annotations

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether only this machine is reached under that name or address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
