"""JSON over HTTP with patience: time-outs, and retries with growing pauses for what may pass.

Connection errors, 408, 429 and 5xx are tried again; any other refusal is final, since the same question would
get the same answer. Only the standard library is needed.
"""

from __future__ import annotations

import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from deepgen.rewards.reward import RewardUnavailable

_WORTH_ANOTHER_TRY = {408, 429, 500, 502, 503, 504}
_LONGEST_REPLY = 64 * 2**20


class RequestRefused(RewardUnavailable):
    """The server answered with an HTTP error.

    Attributes:
        status: its code.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A server and how much patience it gets.

    Attributes:
        url: where it is, such as http://gpu7:18080.
        timeout: seconds a server may be silent within one try.
        retries: tries after the first.
        backoff, longest_backoff: seconds before the first retry, doubled each time up to the longest; half
            of each pause is random, so that many clients do not come back together.
        headers: sent with every request; not shown, as keys are among them.
        sleep: what waits.
    """

    url: str
    timeout: float = 60.0
    retries: int = 3
    backoff: float = 0.5
    longest_backoff: float = 10.0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def __post_init__(self) -> None:
        """Refuse an address that is none."""
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url must start with http:// or https://, got {self.url!r}")
        if self.timeout <= 0 or self.retries < 0:
            raise ValueError(
                f"timeout must be positive and retries 0 or more, got {self.timeout} and {self.retries}"
            )

    def get(self, path: str) -> Any:
        """What the server says there, as plain values; RewardUnavailable once patience is at an end."""
        return self._ask(path, None)

    def post(self, path: str, payload: Any) -> Any:
        """What the server answers to a JSON document; RewardUnavailable once patience is at an end."""
        return self._ask(path, json.dumps(payload, allow_nan=False).encode())

    def _ask(self, path: str, body: bytes | None) -> Any:
        url = self.url.rstrip("/") + path
        for attempt in range(self.retries + 1):
            try:
                return self._try(url, body)
            except urllib.error.HTTPError as error:
                with error:
                    reason = f"{url} answered {error.code}: {_excerpt(error)}"
                if error.code not in _WORTH_ANOTHER_TRY or attempt == self.retries:
                    raise RequestRefused(reason, error.code) from error
                pause = self._pause(attempt, error.headers.get("Retry-After"))
            except (OSError, HTTPException) as error:  # refused, reset, time-out, half a reply
                if attempt == self.retries:
                    reason = f"{url} does not answer ({error!r}, {attempt + 1} tries)"
                    raise RewardUnavailable(reason) from error
                pause = self._pause(attempt, None)
            self.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _try(self, url: str, body: bytes | None) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self.headers}
        request = urllib.request.Request(url, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=self.timeout) as reply:
            text = reply.read(_LONGEST_REPLY + 1)
        if len(text) > _LONGEST_REPLY:
            raise RewardUnavailable(f"{url} answered with more than {_LONGEST_REPLY >> 20} MiB")
        try:
            return json.loads(text)
        except ValueError as error:
            start = text[:120].decode(errors="replace")
            raise RewardUnavailable(f"{url} did not answer with JSON but with {start!r}") from error

    def _pause(self, attempt: int, retry_after: str | None) -> float:
        if retry_after is not None and retry_after.isdigit():
            return min(float(retry_after), self.longest_backoff)
        longest = min(self.backoff * 2**attempt, self.longest_backoff)
        return longest * (0.5 + 0.5 * random.random())


def _excerpt(error: urllib.error.HTTPError) -> str:
    """The start of an error page."""
    try:
        return " ".join(error.read(400).decode(errors="replace").split()) or str(error.reason)
    except OSError:
        return str(error.reason)
