"""A Hub of our own on this machine, which speaks enough of its API for the real huggingface_hub client.

Repositories are dictionaries of file contents. Large files are announced as the Hub does (a sha256, a
redirect to another host for the content, Range answered with 206), small ones with git's name of them. Faults
are set by name: a file can end early, stall, or hold other bytes than announced.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".pt", ".gguf", ".bin")


@dataclass
class Hub:
    """What is served, what shall go wrong, and what was asked for."""

    repositories: dict[str, dict[str, bytes]]
    commit: str
    token: str | None = None  # asked for by every request, where set
    stalls_after: dict[str, int] = field(default_factory=dict)  # file -> bytes, then silence
    ends_after: dict[str, int] = field(default_factory=dict)  # file -> bytes, then the connection is closed
    other_bytes: dict[str, bytes] = field(default_factory=dict)  # file -> what is sent instead
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range
    tokens_seen_by_storage: list[str] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def asked(self, name: str) -> list[str | None]:
        """The ranges in which a large file's content was asked for, in order."""
        return [
            where
            for method, path, where in self.requests
            if method == "GET" and path.startswith("/content/") and path.endswith(f"/{name}")
        ]


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """The server, in a thread, until the block is left."""

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.served, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("Range")))
        is_content = path.startswith("/content/")
        if is_content and (sent := self.headers.get("Authorization")):
            hub.tokens_seen_by_storage.append(sent)
        if (
            hub.token is not None
            and not is_content
            and self.headers.get("Authorization") != f"Bearer {hub.token}"
        ):
            return self._error(401, "RepoNotFound", "Invalid username or password.")
        for name, files in hub.repositories.items():
            for prefix, answer in (
                (f"/api/models/{name}", self._api),
                (f"/{name}/resolve/", self._resolve),
                (f"/content/{name}/", self._content),
            ):
                if path == prefix or path.startswith(prefix if prefix.endswith("/") else prefix + "/"):
                    return answer(files, path.removeprefix(prefix).strip("/"), name)
        return self._error(404, "RepoNotFound", "Repository not found")

    def _api(self, files: dict[str, bytes], rest: str, name: str) -> None:
        if rest.startswith("tree/"):
            return self._json(
                [{"type": "file", "path": path, **_described(path, files[path])} for path in files]
            )
        revision = rest.removeprefix("revision/")
        if revision not in ("", "main", self.served.commit):
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = []
        for path, content in files.items():
            facts = _described(path, content)
            lfs = facts.get("lfs")
            large = {"lfs": {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": 134}} if lfs else {}
            siblings.append({"rfilename": path, "size": facts["size"], "blobId": facts["oid"], **large})
        return self._json(
            {"id": name, "sha": self.served.commit, "private": False, "siblings": siblings, "tags": []}
        )

    def _resolve(self, files: dict[str, bytes], rest: str, name: str) -> None:
        path = rest.partition("/")[2]
        if path not in files:
            return self._error(404, "EntryNotFound", "Entry not found")
        content = files[path]
        headers = {"X-Repo-Commit": self.served.commit, "ETag": f'"{git_sha1(content)}"'}
        if not path.endswith(LARGE):
            return self._send(content, path, headers)
        headers |= {"X-Linked-ETag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
        storage = self.served.url.replace("127.0.0.1", "localhost")  # another host, as the Hub's storage is
        headers |= {"Location": f"{storage}/content/{name}/{path}", "Content-Length": "0"}
        self.send_response(302)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        return None

    def _content(self, files: dict[str, bytes], path: str, name: str) -> None:
        self._send(self.served.other_bytes.get(path, files[path]), path, {"ETag": f'"{sha256(files[path])}"'})

    def _send(self, content: bytes, path: str, headers: dict[str, str]) -> None:
        first = 0
        if asked := self.headers.get("Range"):
            first = int(asked.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if asked else 200)
        if asked:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        for key, value in {**headers, "Content-Length": str(len(content) - first)}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        hub = self.served
        end = min(hub.stalls_after.get(path, len(content)), hub.ends_after.get(path, len(content)))
        self.wfile.write(content[first:end])
        self.wfile.flush()
        if path in hub.stalls_after:
            hub.stalled.set()
            hub.closing.wait(30)
        if path in hub.stalls_after or path in hub.ends_after:
            self.close_connection = True
            self.connection.close()

    def _json(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _error(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _described(path: str, content: bytes) -> dict[str, Any]:
    facts: dict[str, Any] = {"size": len(content), "oid": git_sha1(content)}
    if path.endswith(LARGE):
        facts["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
    return facts
