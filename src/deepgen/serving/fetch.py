"""Pictures by address, from hosts that were named when the server was started, and from no others.

Whoever may make a server open addresses may look around in its network. So a host has to be on the list,
every address its name stands for has to be a public one, the connection goes to the very address that was
looked at, and a redirect is a new question.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from urllib.parse import urljoin, urlsplit

from deepgen.serving.errors import ApiError, invalid

MAX_REDIRECTS = 3
_CHUNK = 1 << 16
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")  # all that is assigned to hosts of the open network


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open network.

    Of IPv6 only the assigned global space does, without what leads into IPv4 (mapped, NAT64, 6to4, Teredo):
    behind a gateway such an address ends in a private network, and no public host needs one.
    """
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address) and (
        found not in _GLOBAL_IPV6 or found.sixtofour is not None or found.teredo is not None
    ):
        return False
    return found.is_global and not found.is_multicast


class Fetcher:
    """Gets files from allowed hosts.

    Args:
        hosts: `example.org`, or `*.example.org` for all names below it; without any, nothing is fetched.
        max_bytes: of a file.
        timeout_s: for the whole of it, redirects included.
        is_allowed: which IP addresses may be spoken to.
    """

    def __init__(
        self,
        hosts: Sequence[str] = (),
        max_bytes: int = 50 * 2**20,
        timeout_s: float = 20.0,
        is_allowed: Callable[[str], bool] = is_public,
    ) -> None:
        for host in hosts:
            if not host.removeprefix("*.") or set(host.removeprefix("*.")) & set("*/:@ "):
                raise ValueError(f"image host {host!r} is no host; give example.org or *.example.org")
        self._hosts = tuple(host.lower() for host in hosts)
        self._max_bytes, self._timeout_s, self._is_allowed = max_bytes, timeout_s, is_allowed

    def __call__(self, url: str, param: str) -> bytes:
        """The file at an http or https address; `ApiError` 400 says why not. It blocks its thread."""
        until = time.monotonic() + self._timeout_s
        for _ in range(MAX_REDIRECTS + 1):
            try:
                found = self._get(url, param, until)
            except (OSError, http.client.HTTPException) as error:
                # What exactly went wrong would tell about our network.
                raise invalid(f"{param}: the address could not be fetched", param, "invalid_image") from error
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise invalid(f"{param}: more than {MAX_REDIRECTS} redirects", param, "invalid_image")

    def _get(self, url: str, param: str, until: float) -> bytes | str:
        """The file, or where it is said to be."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower().rstrip("."), parts.port
        except ValueError as error:
            raise invalid(f"{param} is no address", param, "invalid_image") from error
        if parts.scheme not in ("http", "https") or parts.username is not None or not url.isascii():
            raise invalid(f"{param} must be a plain http or https address", param, "invalid_image")
        if not self._is_listed(host):
            raise _forbidden(param, "pictures of this host are not fetched here")
        address = self._resolve(host, param)
        connection = _Connection(host, address, port, parts.scheme == "https", _left(until))
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "deepgen"})
            answer = connection.getresponse()
            if answer.status in (301, 302, 303, 307, 308):
                return answer.headers.get("location", "")
            if answer.status != 200:
                raise invalid(f"{param}: the address answers {answer.status}", param, "invalid_image")
            return self._read(answer, connection, param, until)
        finally:
            connection.close()

    def _is_listed(self, host: str) -> bool:
        return any(
            host.endswith(listed[1:]) if listed.startswith("*.") else host == listed for listed in self._hosts
        )

    def _resolve(self, host: str, param: str) -> str:
        """One of the host's addresses; all of them must be allowed, as the next look-up may find any."""
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
        if not found or not all(self._is_allowed(address.partition("%")[0]) for address in found):
            raise _forbidden(param, "this address leads into a private network")
        return found[0]

    def _read(
        self, answer: http.client.HTTPResponse, connection: _Connection, param: str, until: float
    ) -> bytes:
        content = bytearray()
        while chunk := answer.read1(_CHUNK):
            content += chunk
            if len(content) > self._max_bytes:
                raise invalid(
                    f"{param}: the file is larger than {self._max_bytes >> 20} MiB", param, "invalid_image"
                )
            if connection.sock is not None:  # closed once the last byte is read
                connection.sock.settimeout(_left(until))
        return bytes(content)


class _Connection(http.client.HTTPConnection):
    """To an address that has been looked at, whatever the name stands for by now."""

    def __init__(self, host: str, address: str, port: int | None, is_tls: bool, timeout: float) -> None:
        super().__init__(host, port or (443 if is_tls else 80), timeout=timeout)
        self._address, self._is_tls = address, is_tls

    def connect(self) -> None:
        """Connect, and for https have the name proved."""
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._is_tls:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("the address took too long")
    return left


def _forbidden(param: str, message: str) -> ApiError:
    return ApiError(400, f"{param}: {message}", param=param, code="address_not_allowed")
