"""JSON over HTTP with time-outs, and retries with growing pauses for temporary failures.

Connection errors, 408, 429 and 5xx are tried again; any other refusal is final, since the same question would
get the same answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepgen.http_client import (
    CONNECTION_ERRORS,
    growing_pause,
    make_client,
    read_at_most,
    retry_after,
    send_patiently,
)
from deepgen.rewards.reward import RewardUnavailable

if TYPE_CHECKING:
    import httpx

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


class BrokenReply(RewardUnavailable):
    """The server answered with success, and its body is empty or not what it should be."""


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
        try:
            with make_client(self.timeout) as client:
                reply = send_patiently(
                    lambda: self._try(client, url, body),
                    retries=self.retries,
                    pause=self._pause,
                    sleep=self.sleep,
                )
        except CONNECTION_ERRORS as error:
            reason = f"{url} does not answer ({error!r}, {self.retries + 1} tries)"
            raise RewardUnavailable(reason) from error
        if reply.status_code >= 400:
            excerpt = " ".join(reply.content.decode(errors="replace").split()) or reply.reason
            raise RequestRefused(f"{url} answered {reply.status_code}: {excerpt}", reply.status_code)
        if len(reply.content) > _LONGEST_REPLY:
            raise RewardUnavailable(f"{url} answered with more than {_LONGEST_REPLY >> 20} MiB")
        try:
            return json.loads(reply.content)
        except ValueError as error:
            start = reply.content[:120].decode(errors="replace")
            raise BrokenReply(f"{url} did not answer with JSON but with {start!r}") from error

    def _try(self, client: httpx.Client, url: str, body: bytes | None) -> _Reply:
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self.headers}
        with client.stream("GET" if body is None else "POST", url, content=body, headers=headers) as reply:
            is_refusal = reply.status_code >= 400
            content = read_at_most(reply, 400 if is_refusal else _LONGEST_REPLY + 1)
        return _Reply(reply.status_code, reply.headers, reply.reason_phrase, content)

    def _pause(self, attempt: int, refusal: _Reply | None) -> float | None:
        if refusal is not None and refusal.status_code not in _WORTH_ANOTHER_TRY:
            return None
        asked = None if refusal is None else retry_after(refusal)
        if asked is not None:
            return min(asked, self.longest_backoff)
        return growing_pause(attempt, self.backoff, self.longest_backoff)


@dataclass(frozen=True)
class _Reply:
    """A reply that has been read."""

    status_code: int
    headers: Mapping[str, str]
    reason: str
    content: bytes
