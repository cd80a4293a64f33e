"""Who may use a server: by which name it is asked, and from which page."""

from __future__ import annotations

import re
from typing import Any

import pytest

from deepgen.http_access import AccessMiddleware, AccessRules, AllowedHosts

LOCAL = ["127.0.0.1:8000", "localhost", "LOCALHOST:8000", "localhost.:8000", "[::1]:8000", "127.9.9.9"]
UNOWNED = ["10.0.0.5:8000", "[fd00::1]:80", "0.0.0.0:8000", "deepgen:8000", "testserver"]
NAMED = ["images.example.org", "Images.Example.org:8443", "a.b.pics.example", "only.example:81"]
STRANGE = ["evil.example", "127.0.0.1.evil.example:8000", "localhost.evil.example", "evil.example:80:80"]
NO_HOST = ["", "a b", "user@localhost", "localhost/x", "localhost, evil.example", "[::1", "[evil.example]:80"]
NAMES = ("images.example.org", "*.pics.example", "only.example:81")


@pytest.mark.parametrize(
    ("hosts", "taken"),
    [
        (AllowedHosts.of_server("127.0.0.1", (), False), LOCAL),
        (AllowedHosts.of_server("localhost", (), True), LOCAL),  # a key behind a proxy of this machine, too
        (AllowedHosts.of_server("::1", NAMES, True), [*LOCAL, *NAMED]),
        (AllowedHosts.of_server("0.0.0.0", (), False), [*LOCAL, *UNOWNED]),
        (AllowedHosts.of_server("0.0.0.0", (",".join(NAMES),), False), [*LOCAL, *UNOWNED, *NAMED]),
        (AllowedHosts.of_server("0.0.0.0", NAMES, True), [*LOCAL, *UNOWNED, *NAMED]),
        (AllowedHosts.of_server("0.0.0.0", (), True), [*LOCAL, *UNOWNED, *NAMED, *STRANGE, *NO_HOST]),
        (AllowedHosts.of_server("127.0.0.1", ("*",), False), [*LOCAL, *UNOWNED, *NAMED, *STRANGE, *NO_HOST]),
    ],
)
def test_a_server_answers_to_names_that_no_stranger_owns_and_to_configured_ones(
    hosts: AllowedHosts, taken: list[str]
) -> None:
    asked = [*LOCAL, *UNOWNED, *NAMED, *STRANGE, *NO_HOST]
    assert [name for name in asked if hosts.allows(name)] == [name for name in asked if name in taken]


def test_a_configured_port_and_a_configured_subdomain_are_taken_exactly() -> None:
    hosts = AllowedHosts(NAMES, "loopback")
    for name in (
        "only.example",
        "only.example:82",
        "pics.example",
        "xpics.example",
        "images.example.org.evil",
    ):
        assert not hosts.allows(name)


@pytest.mark.parametrize("name", ["http://a.example", "a b", "a.example/x", "*", "*.*", "", "exa_mple:port"])
def test_what_can_be_no_name_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected one such as images\.example\.org"):
        AllowedHosts((name,))


RULES = AccessRules(
    hosts=AllowedHosts(("images.example.org",), "loopback"),
    origins=("https://app.example",),
    shared=re.compile("/shared/.+"),
)
HERE = {"host": "127.0.0.1:8000"}
CROSS = {**HERE, "sec-fetch-site": "cross-site"}
LINK = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", HERE, None),
        ("GET", "/", {}, 421),
        ("GET", "/", {"host": "evil.example"}, 421),
        ("GET", "/", {"host": "evil.example", "origin": "http://evil.example"}, 421),
        ("GET", "/health", {"host": "evil.example"}, None),  # a probe does not know the server's name
        ("GET", "/ready", {}, None),
        ("GET", "/ready", {"host": "evil.example", "origin": "https://else.example"}, 403),
        ("POST", "/a", {**HERE, "origin": "http://127.0.0.1:8000"}, None),
        ("POST", "/a", {**HERE, "origin": "http://127.0.0.1:3000"}, 403),
        ("POST", "/a", {**HERE, "origin": "http://localhost:8000"}, 403),
        ("POST", "/a", {**HERE, "origin": "https://images.example.org"}, None),  # a proxy rewrote Host
        ("POST", "/a", {**HERE, "origin": "https://images.example.org:99"}, 403),
        ("POST", "/a", {**HERE, "origin": "https://app.example"}, None),
        ("POST", "/a", {**CROSS, "origin": "https://app.example"}, None),
        ("POST", "/a", {**HERE, "origin": "http://app.example"}, 403),
        *(("POST", "/a", {**HERE, "origin": origin}, 403) for origin in ("null", "", "http://[", "x")),
        ("POST", "/a", CROSS, 403),
        ("GET", "/a", CROSS, 403),
        ("GET", "/a", {**CROSS, **LINK}, None),  # somebody followed a link
        ("POST", "/a", {**CROSS, **LINK}, 403),  # a page sent a form
        ("GET", "/a", {**CROSS, "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 403),
        ("GET", "/shared/x", {**CROSS, "sec-fetch-dest": "image"}, None),
        ("POST", "/shared/x", CROSS, 403),
        ("GET", "/a", {**HERE, "sec-fetch-site": "same-origin"}, None),
        ("GET", "/a", {**HERE, "sec-fetch-site": "none"}, None),
    ],
)
def test_pages_of_other_sites_may_not_use_a_server(
    method: str, path: str, headers: dict[str, str], status: int | None
) -> None:
    refusal = RULES.refusal(method, path, headers)
    assert (refusal and refusal.status) == status


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": b"{}"})


async def _no_message() -> dict[str, Any]:
    raise AssertionError("nothing is read")


def ask(method: str, headers: dict[str, str], kind: str = "http", repeat: str = "") -> list[dict[str, Any]]:
    """What is sent to a request."""
    import asyncio

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw += [(b"host", repeat.encode())] if repeat else []
    scope = {"type": kind, "method": method, "path": "/a", "headers": raw}
    asyncio.run(AccessMiddleware(_app, RULES)(scope, _no_message, send))
    return sent


def test_a_listed_origin_gets_what_its_browser_wants_to_read() -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    (start, _) = ask("OPTIONS", {**CROSS, "origin": "https://app.example", **asked})
    told = dict(start["headers"])
    assert start["status"] == 204
    assert told[b"access-control-allow-origin"] == b"https://app.example"
    assert told[b"access-control-allow-headers"] == b"authorization"
    (start, _) = ask("POST", {**CROSS, "origin": "https://app.example"})
    told = dict(start["headers"])
    assert (start["status"], told[b"a"]) == (200, b"b")
    assert told[b"access-control-allow-origin"] == b"https://app.example"
    (start, _) = ask("OPTIONS", {**HERE, "origin": "https://else.example", **asked})
    assert start["status"] == 403
    (start, _) = ask("GET", HERE)
    assert b"access-control-allow-origin" not in dict(start["headers"])


def test_two_hosts_and_a_websocket_of_a_stranger_are_refused() -> None:
    assert ask("GET", HERE, repeat="evil.example")[0]["status"] == 421
    assert ask("GET", HERE, repeat="127.0.0.1:8000")[0]["status"] == 421
    (closed,) = ask("GET", {"host": "evil.example"}, kind="websocket")
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
