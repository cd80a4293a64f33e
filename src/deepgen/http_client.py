"""Shared part of our HTTP clients: construction, which failures are retried, and the pauses between tries."""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Mapping
from functools import cache
from typing import Protocol, TypeVar

import httpx

# What may go wrong on the way: refused, reset, time-out, half a reply, an address that is none.
CONNECTION_ERRORS = (httpx.HTTPError, httpx.InvalidURL, OSError)


class Reply(Protocol):
    """What `send_patiently` has to know of a reply."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...


AnyReply = TypeVar("AnyReply", bound=Reply)


def make_client(timeout: float, *, trust_env: bool = True) -> httpx.Client:
    """A client that follows redirects and keeps no connection open between requests.

    Args:
        timeout: seconds a server may be silent, at connecting as well.
        trust_env: go by the proxies in the environment.
    """
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(
        timeout=timeout, trust_env=trust_env, follow_redirects=True, limits=limits, verify=_trusted()
    )


@cache
def _trusted() -> ssl.SSLContext:
    """The certificates this system trusts; read once, since that takes longer than a request."""
    return ssl.create_default_context()


def send_patiently(
    send: Callable[[], AnyReply],
    *,
    retries: int,
    pause: Callable[[int, AnyReply | None], float | None],
    sleep: Callable[[float], None],
) -> AnyReply:
    """The first reply below 400, or the refusal after which no other try is made.

    Args:
        send: makes one try.
        retries: tries after the first.
        pause: number of the try (from 0) and its refusal, None where the connection failed -> seconds until
            the next one; None for a refusal that is final.
        sleep: what waits.

    Raises:
        CONNECTION_ERRORS: the last try's.
    """
    for attempt in range(retries + 1):
        try:
            reply = send()
        except CONNECTION_ERRORS:
            if attempt == retries:
                raise
            reply = None
        if reply is not None and (reply.status_code < 400 or attempt == retries):
            return reply
        seconds = pause(attempt, reply)
        if seconds is None:
            if reply is None:
                raise ValueError("a failed connection always has a pause")
            return reply
        if isinstance(reply, httpx.Response):
            reply.close()
        sleep(seconds)
    raise AssertionError("the last try returns or raises")


def growing_pause(attempt: int, first: float, longest: float) -> float:
    """Seconds: `first`, doubled with each try up to `longest`; half is random, so that many clients do not
    come back together.
    """
    return min(first * 2**attempt, longest) * (0.5 + 0.5 * random.random())


def retry_after(reply: Reply) -> float | None:
    """Seconds after which the server wants to be asked again, where it says so."""
    asked = reply.headers.get("Retry-After", "")
    return float(asked) if asked.isdigit() else None


def read_at_most(reply: httpx.Response, limit: int) -> bytes:
    """The content of a streamed reply, cut after `limit` bytes."""
    parts, size = [], 0
    for part in reply.iter_bytes():
        parts.append(part)
        size += len(part)
        if size >= limit:
            break
    return b"".join(parts)[:limit]
