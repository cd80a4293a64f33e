"""Pictures by address: what is fetched, and how hard it is to be led elsewhere."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from deepgen.serving.errors import ApiError
from deepgen.serving.fetch import Fetcher, is_public


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        pages: dict[str, tuple[int, dict[str, str], bytes]] = {
            "/picture?size=1": (200, {}, b"picture"),
            "/large": (200, {}, b"x" * 2000),
            "/moved": (302, {"Location": "/picture?size=1"}, b""),
            "/loop": (302, {"Location": "/loop"}, b""),
            "/inside": (302, {"Location": "http://inside.test/picture"}, b""),
            "/elsewhere": (302, {"Location": "http://other.test/picture"}, b""),
            "/file": (302, {"Location": "file:///etc/passwd"}, b""),
        }
        status, headers, body = pages.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A site for names of `.test`; `inside.test` leads to a private address, `mixed.test` to both."""
    numbers = {"inside.test": ["10.0.0.1"], "mixed.test": ["127.0.0.1", "192.168.0.1"]}

    def look_up(host: str, port: Any, *_: Any, **__: Any) -> list[Any]:
        found = numbers.get(host, ["127.0.0.1"])
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, port or 0)) for number in found]

    site = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    yield site.server_address[1]
    site.shutdown()
    site.server_close()


def fetcher(**options: Any) -> Fetcher:
    """One that takes this machine for the open network."""
    hosts = ("pictures.test", "inside.test", "mixed.test", "*.many.test")
    return Fetcher(hosts, is_allowed=lambda address: address == "127.0.0.1", **options)


def test_a_listed_host_is_fetched_and_its_redirects_followed(port: int) -> None:
    for path in ("picture?size=1", "moved"):
        assert fetcher()(f"http://pictures.test:{port}/{path}", "image") == b"picture"
    assert fetcher()(f"http://a.many.test:{port}/moved", "image") == b"picture"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://other.test:{port}/picture", "not fetched here"),
        ("http://many.test:{port}/picture", "not fetched here"),
        ("http://127.0.0.1:{port}/picture", "not fetched here"),
        ("http://inside.test:{port}/picture", "private network"),
        ("http://mixed.test:{port}/picture", "private network"),
        ("http://pictures.test:{port}/inside", "private network"),
        ("http://pictures.test:{port}/elsewhere", "not fetched here"),
        ("http://pictures.test:{port}/file", "plain http"),
        ("http://pictures.test:{port}/loop", "redirects"),
        ("http://pictures.test:{port}/nowhere", "answers 404"),
        ("http://pictures.test:{port}/large", "larger than"),
        ("http://me@pictures.test:{port}/picture", "plain http"),
        ("http://pictures.test:99999/picture", "no address"),
        ("http://pictures.test:1/picture", "could not be fetched"),
        ("http://[::1/picture", "no address"),
    ],
)
def test_everything_else_is_refused(port: int, address: str, message: str) -> None:
    with pytest.raises(ApiError, match=message) as refused:
        fetcher(max_bytes=1000)(address.format(port=port), "image")
    assert (refused.value.status, refused.value.param) == (400, "image")


def test_a_slow_host_is_left(port: int) -> None:
    with pytest.raises(ApiError, match="could not be fetched"):
        fetcher(timeout_s=0)(f"http://pictures.test:{port}/moved", "image")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "169.254.169.254", "0.0.0.0", "224.0.0.1"),
        *("::1", "::", "fe80::1", "fd00::1"),
        *("::ffff:10.0.0.1", "::ffff:8.8.8.8"),  # mapped
        *("::10.0.0.1", "::ffff:0:10.0.0.1"),  # compatible, translated
        *("64:ff9b::a00:1", "64:ff9b:1::a00:1"),  # NAT64
        *("2002:a00:1::1", "2001:0:a00:1::1"),  # 6to4, Teredo
        *("fec0::1", "ff0e::1", "2001:db8::1"),  # site-local, multicast, documentation
    ],
)
def test_addresses_of_this_network_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2001:4860:4860::8888", "2620:fe::fe"])
def test_addresses_of_the_open_network_are_public(address: str) -> None:
    assert is_public(address)


def test_a_host_that_is_none_is_refused() -> None:
    for host in ("", "*", "*.", "http://example.org", "a.org/x", "a.org:80"):
        with pytest.raises(ValueError, match="image host"):
            Fetcher((host,))
