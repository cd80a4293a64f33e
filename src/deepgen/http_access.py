"""Which requests a server of ours takes at all, going by the address and the page they come from.

A server that trusts its own machine, or whoever reaches its port, has to know that the browser of such a
person is not being used by a page from elsewhere. A page may reach it in two ways, and each leaves a trace:

- By a name of the page's own that is made to lead to the server (DNS rebinding). `Host` is then that name,
  so only known names are answered. An IP address is no name that could be led elsewhere.
- By the server's right address. The browser then names the page's `Origin`, and says in `Sec-Fetch-Site` that
  the page is from another site.

The middleware is plain ASGI and imports nothing, so that each of our servers and Gradio's can have it around.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import urlsplit

from deepgen.addresses import is_loopback
from deepgen.json_values import json_text

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

PROBES = ("/health", "/ready")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s\[\]:/@?#\\]+)(?::([0-9]{1,5}))?", re.ASCII)
_NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?", re.ASCII)
_HEADER_NAMES = re.compile(r"[\w\-, ]{0,1000}", re.ASCII)
_METHODS = "GET, POST, DELETE, OPTIONS"
_EXPOSED = "x-request-id, retry-after, mcp-session-id"


@dataclass(frozen=True)
class AllowedHosts:
    """Names under which a server answers.

    Attributes:
        names: those that were configured: `images.example.org`, one with its port
            (`images.example.org:8443`), every name below one (`*.example.org`), or an address.
        others: beside them: `loopback` names and addresses of this machine alone; `unregistered`, which is
            also every IP address and every name without a dot, neither of which a stranger can own; or `any`.
    """

    names: tuple[str, ...] = ()
    others: Literal["loopback", "unregistered", "any"] = "unregistered"

    def __post_init__(self) -> None:
        """Refuse what can be no name."""
        for name in self.names:
            host, _ = _split(name)
            if not (_NAME.fullmatch(host) or _address(host)):
                raise ValueError(
                    f"{name!r} is no host name; expected one such as images.example.org, *.example.org or "
                    "images.example.org:8443, without http://"
                )

    @staticmethod
    def of_server(host: str, names: Sequence[str], has_keys: bool) -> AllowedHosts:
        """What a server takes that listens on `host`, with these names (several may be joined by commas).

        One that only this machine reaches answers to loopback names. One that others reach and that asks
        for keys answers to any name, because a page cannot know a key; if names are given, to those. Without
        keys it answers to what no stranger can own. `*` stands for any name.
        """
        given = tuple(name.strip().lower() for text in names for name in text.split(",") if name.strip())
        if "*" in given:
            return AllowedHosts((), "any")
        if is_loopback(host):
            return AllowedHosts(given, "loopback")
        return AllowedHosts(given, "any" if has_keys and not given else "unregistered")

    def allows(self, header: str) -> bool:
        """Whether a `Host` header names this server."""
        if self.others == "any":
            return True
        host, port = _split(header)
        if not host:
            return False
        if is_loopback(host) or self.names_host(host, port):
            return True
        return self.others == "unregistered" and (_address(host) or "." not in host)

    def names_host(self, host: str, port: str, *, is_origin: bool = False) -> bool:
        """Whether it is a configured name; one of an origin has the port that was configured, or none."""
        for name in self.names:
            known, known_port = _split(name)
            is_port = port == known_port or not (known_port or is_origin)
            is_name = host.endswith(known[1:]) if known.startswith("*.") else host == known
            if is_port and is_name:
                return True
        return False


@dataclass(frozen=True)
class AccessRefusal:
    """A request that is not taken: HTTP status, a message for people, a word for programs."""

    status: int
    message: str
    code: str


@dataclass(frozen=True, kw_only=True)
class AccessRules:
    """Who may ask.

    Attributes:
        hosts: names of the server.
        origins: web pages of other origins that may send requests, such as https://example.org.
        probes: paths that answer under any name, because a probe does not know the server's; they tell
            nothing.
        shared: paths whose GET pages of other sites may embed, because they are secrets themselves.
    """

    hosts: AllowedHosts = AllowedHosts()
    origins: tuple[str, ...] = ()
    probes: tuple[str, ...] = PROBES
    shared: re.Pattern[str] | None = None

    def refusal(self, method: str, path: str, headers: Mapping[str, str]) -> AccessRefusal | None:
        """Why a request is not taken; None where it is."""
        host = headers.get("host", "")
        if path not in self.probes and not self.hosts.allows(host):
            return AccessRefusal(421, _unknown_host(host), "host_not_allowed")
        origin = headers.get("origin")
        if origin is not None:
            if self._is_own(origin, host) or origin in self.origins:
                return None
            return AccessRefusal(403, "this origin may not use the server", "origin_not_allowed")
        if headers.get("sec-fetch-site") != "cross-site" or self._may_cross(method, path, headers):
            return None
        return AccessRefusal(403, "pages of other sites may not use the server", "origin_not_allowed")

    def _is_own(self, origin: str, host: str) -> bool:
        """Whether it is our own page: of the host that was asked, or of a configured name."""
        try:
            netloc = urlsplit(origin).netloc
        except ValueError:  # such as "http://[", which is no page of ours
            return False
        if not netloc:
            return False
        return netloc.lower() == host.lower() or self.hosts.names_host(*_split(netloc), is_origin=True)

    def _may_cross(self, method: str, path: str, headers: Mapping[str, str]) -> bool:
        """Following a link is not using the server, and what has a secret name may be shown."""
        if method not in ("GET", "HEAD"):
            return False
        if headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document":
            return True
        return self.shared is not None and self.shared.fullmatch(path) is not None


class AccessMiddleware:
    """ASGI middleware that refuses what the rules refuse, and tells browsers which origins they allow (CORS).

    Args:
        app: what it is around.
        rules: who may ask.
        body: the JSON of a refusal.
    """

    def __init__(
        self, app: Any, rules: AccessRules, body: Callable[[AccessRefusal], Mapping[str, Any]] | None = None
    ) -> None:
        self._app, self._rules = app, rules
        self._body = body or (lambda refusal: {"error": refusal.message})

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = _headers(scope["headers"])
        method = scope.get("method", "GET")
        refusal = self._rules.refusal(method, scope["path"], headers)
        if refusal is not None:
            await self._refuse(scope, refusal, send)
            return
        origin = headers.get("origin")
        if origin not in self._rules.origins:
            await self._app(scope, receive, send)
        elif method == "OPTIONS" and "access-control-request-method" in headers:
            await _send(send, 204, _preflight(origin, headers), b"")
        else:
            await self._app(scope, receive, _with_cors(send, origin))

    async def _refuse(self, scope: dict[str, Any], refusal: AccessRefusal, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.code})
            return
        content = json_text(self._body(refusal))
        headers = {"content-type": "application/json", "x-should-retry": "false"}
        await _send(send, refusal.status, {**headers, "content-length": str(len(content))}, content)


def _split(text: str) -> tuple[str, str]:
    """(host in small letters, port) of `host:port`; two empty texts where it is something else."""
    match = _HOST.fullmatch(text)
    if match is None:
        return "", ""
    return match[1].lower().removeprefix("[").removesuffix("]").removesuffix("."), match[2] or ""


def _address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _unknown_host(host: str) -> str:
    shown = host[:64].encode("ascii", "replace").decode()
    return (
        f"this server does not answer to the name {shown!r}; ask for it by its address, or start it with "
        "--allowed-hosts and that name"
    )


def _headers(raw: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Names in small letters; a header that is given twice is both values, which is then none of ours."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _preflight(origin: str | None, headers: Mapping[str, str]) -> dict[str, str]:
    """What a browser wants to read before it lets a page of another origin ask."""
    asked = headers.get("access-control-request-headers", "")
    allowed = {
        "access-control-allow-origin": origin or "",
        "access-control-allow-methods": _METHODS,
        "access-control-max-age": "600",
        "vary": "Origin",
    }
    if asked and _HEADER_NAMES.fullmatch(asked):
        allowed["access-control-allow-headers"] = asked
    if headers.get("access-control-request-private-network") == "true":
        allowed["access-control-allow-private-network"] = "true"
    return allowed


def _with_cors(send: Send, origin: str | None) -> Send:
    """Adds to an answer that the page of this origin may read it."""
    told = {
        "access-control-allow-origin": origin or "",
        "access-control-expose-headers": _EXPOSED,
        "vary": "Origin",
    }

    async def send_on(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *_raw(told)]}
        await send(message)

    return send_on


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


async def _send(send: Send, status: int, headers: Mapping[str, str], content: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": _raw(headers)})
    await send({"type": "http.response.body", "body": content})
