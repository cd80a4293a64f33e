"""A real nginx with the example's configuration, in front of real servers: what it passes on, and a roll-out.

`nginx` is the one on the PATH, such as that of Debian's `nginx-light`; without it the tests skip.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from serve_process import ROOT, free_port, started

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None or shutil.which("openssl") is None, reason="needs nginx and openssl"),
]

NAME = "images.example.org"
PUBLIC = ("--allowed-hosts", NAME)  # as the head of the example says


def configuration(folder: Path, port: int, servers: list[int]) -> Path:
    """The example with these ports and a certificate of its own, inside what Debian puts around it."""
    pem, key = folder / "certificate.pem", folder / "certificate.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    subprocess.run([*command, "-keyout", key, "-out", pem], check=True, capture_output=True)
    text = (ROOT / "examples/nginx.conf").read_text()
    for old, new in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        (f"/etc/ssl/{NAME}.pem", str(pem)),
        (f"/etc/ssl/{NAME}.key", str(key)),
        ("server 127.0.0.1:8000 ", f"server 127.0.0.1:{servers[0]} "),
        ("server 127.0.0.1:8001 ", f"server 127.0.0.1:{servers[1]} "),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "deepgen.conf").write_text(text)
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""  # the folder of a test is its owner's alone
    main = f"{user} daemon off; pid {folder}/pid; error_log {folder}/error.log info; events {{}}\n"
    main += f"http {{ access_log {folder}/access.log; {paths} include {folder}/deepgen.conf; }}\n"
    (folder / "nginx.conf").write_text(main)
    return folder / "nginx.conf"


@contextmanager
def proxy(folder: Path, servers: list[int]) -> Iterator[tuple[int, ssl.SSLContext]]:
    """The port of a running nginx, and whom to trust."""
    assert NGINX is not None
    port = free_port()
    path = configuration(folder, port, servers)
    with subprocess.Popen([NGINX, "-p", folder, "-c", path, "-e", folder / "error.log"]) as process:
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=5).close()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "error.log").read_text()
                    time.sleep(0.05)
            yield port, ssl.create_default_context(cafile=folder / "certificate.pem")
        finally:
            process.terminate()
            process.wait(30)


class Through:
    """Requests through the proxy, as if its name led to this machine."""

    def __init__(self, port: int, trust: ssl.SSLContext) -> None:
        self.port = port
        self.http = httpx.Client(
            base_url=f"https://127.0.0.1:{port}", verify=trust, timeout=120, trust_env=False
        )

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"host": NAME, **options.pop("headers", {})}
        more = {"extensions": {"sni_hostname": NAME}}
        return self.http.request(method, path, headers=headers, **more, **options)


def test_what_nginx_passes_on(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    with started("serve", "tiny", *PUBLIC, port=ports[0]) as server, proxy(tmp_path, ports) as (port, trust):
        client = Through(port, trust)
        ready = client.request("GET", "/ready")
        assert ready.status_code == 200  # the other server is not there, and nobody notices
        assert re.fullmatch("[0-9a-f]{32}", ready.headers["x-request-id"])

        page = {"origin": f"https://{NAME}"}  # its own page asks, and another's does not
        quick = {"prompt": "a red circle", "num_inference_steps": 1}
        path = "/v1/images/generations"
        assert client.request("POST", path, json=quick, headers=page).status_code == 200
        page = {"origin": "https://elsewhere.example"}
        assert client.request("POST", path, json=quick, headers=page).status_code == 403

        named = client.request("POST", path, json={**quick, "response_format": "url"}).json()["data"][0][
            "url"
        ]
        assert named.startswith(f"https://{NAME}/v1/images/")
        fetched = client.request("GET", named.removeprefix(f"https://{NAME}"))
        assert Image.open(io.BytesIO(fetched.content)).size == (96, 96)

        noise = np.random.default_rng(0).integers(0, 256, (1400, 1400, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "PNG")
        assert len(buffer.getvalue()) > 5 << 20  # nginx's own limit is 1 MB
        form = {"prompt": "make it blue", "num_inference_steps": "1", "size": "96x96"}
        files = {"image": ("noise.png", buffer.getvalue())}
        edited = client.request("POST", "/v1/images/edits", data=form, files=files)
        assert edited.status_code == 200, edited.text[:300]

        came: list[float] = []
        body = {**quick, "num_inference_steps": 60, "stream": True, "include_progress": True}
        options: dict[str, Any] = {"headers": {"host": NAME}, "extensions": {"sni_hostname": NAME}}
        with client.http.stream("POST", path, json=body, **options) as streamed:
            came.extend(time.monotonic() for line in streamed.iter_lines() if line.startswith("event:"))
        assert len(came) > 60
        assert came[-1] - came[0] > 0.3  # they come one by one and not at the end

        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert client.request("POST", path, json=quick).status_code == 502


def test_a_roll_out_costs_no_request(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    answers: list[tuple[int, str]] = []
    stopped = threading.Event()

    with (
        started("serve", "tiny", *PUBLIC, port=ports[0]) as first,
        started("serve", "tiny", *PUBLIC, port=ports[1]) as second,
        proxy(tmp_path, ports) as (port, trust),
    ):

        def ask(place: int) -> None:
            client, number = Through(port, trust), 0
            while not stopped.is_set():
                number += 1
                body = {"prompt": "a red circle", "seed": 1000 * place + number, "num_inference_steps": 8}
                try:
                    answer = client.request("POST", "/v1/images/generations", json=body)
                    answers.append((answer.status_code, answer.text[:200]))
                except httpx.HTTPError as error:
                    answers.append((0, repr(error)))

        threads = [threading.Thread(target=ask, args=(place,)) for place in range(6)]
        for thread in threads:
            thread.start()
        first.until(lambda: len(answers) > 6)
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(120) == 0
        with started("serve", "tiny", *PUBLIC, port=ports[0]) as fresh:
            before = len(answers)
            second.process.send_signal(signal.SIGTERM)
            assert second.process.wait(120) == 0
            fresh.until(lambda: len(answers) > before + 6)
            stopped.set()
            for thread in threads:
                thread.join(120)
            fresh.process.send_signal(signal.SIGTERM)
            assert fresh.process.wait(60) == 0
    assert len(answers) > 20
    assert [one for one in answers if one[0] != 200] == []
