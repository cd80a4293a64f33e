"""`deepgen ui`: open the web page of a running server, or of one that is started for it."""

from __future__ import annotations

import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from deepgen.addresses import is_loopback
from deepgen.cli.serve import Serve
from deepgen.http_access import AccessMiddleware, AccessRules, AllowedHosts

if TYPE_CHECKING:
    from deepgen.client import Client


@dataclass(frozen=True, kw_only=True)
class Ui(Serve):
    """Open the page in a browser; serves a model first, unless a server listens at that port already."""

    gradio: bool = False
    """Show a Gradio app instead of the server's own page; needs the extra `ui`. It draws in this process, or
    by a server that listens at --port, and is itself at the first free port from 7860 on."""
    browser: bool = True
    """Open a browser; without, the address is printed."""
    log_format: Literal["json", "text"] = "text"
    """The form of the lines on stderr."""

    def run(self) -> int:
        """Exit code 0 once the page is open, or once the server that was started for it has been stopped."""
        from deepgen.client import Client

        self.check_model()
        if self.port == 0:
            raise ValueError(
                "--port 0 picks any free port and a browser needs a known one; name it, or leave it out"
            )
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        url = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
        if self.gradio:
            return self._gradio(Client(url))
        if Client(url).is_ready():
            self._show(url)
            return 0
        stopped = threading.Event()
        watcher = threading.Thread(target=self._show_when_ready, args=(url, stopped), daemon=True)
        watcher.start()
        try:
            return super().run()
        finally:
            stopped.set()

    def _show_when_ready(self, url: str, stopped: threading.Event) -> None:
        from deepgen.client import Client

        client = Client(url)
        while not stopped.wait(0.2):
            if client.is_ready():
                self._show(url)
                return

    def _show(self, url: str) -> None:
        print(f"deepgen: the page is at {url}", file=sys.stderr, flush=True)
        if self.browser and not webbrowser.open(url):
            print("deepgen: no browser was found; open that address in one", file=sys.stderr, flush=True)

    def _gradio(self, running: Client) -> int:
        from deepgen.serving.gradio_app import launch, make_ui

        if self.api_key_file is not None:
            raise ValueError("the Gradio app asks for no key; leave out --api-key-file, or --gradio")
        if self.workers:
            raise ValueError(f"the Gradio app draws in its own process: leave --workers {self.workers} out")
        if not is_loopback(self.host) and not self.allow_anyone:
            raise ValueError(
                f"--host {self.host} can be reached from other machines, and the Gradio app asks for no key; "
                "give --allow-anyone where something in front checks who asks"
            )
        with self._client(running) as client:
            ui = make_ui(client)
            self._show(launch(ui, self.host, app_kwargs={"middleware": self._access()}))
            try:
                while True:
                    time.sleep(1)
            except KeyboardInterrupt:
                ui.close(verbose=False)
        return 0

    def _access(self) -> list[Any]:
        """Middleware for Gradio's own server: the names and origins that ours would take."""
        from starlette.middleware import Middleware

        hosts = AllowedHosts.of_server(self.host, self.allowed_hosts, has_keys=False)
        rules = AccessRules(hosts=hosts, origins=self.origin, probes=())
        return [Middleware(AccessMiddleware, rules=rules)]

    @contextmanager
    def _client(self, running: Client) -> Iterator[Client]:
        if running.is_ready():
            yield running
            return
        from deepgen.cli.loading import load_pipeline
        from deepgen.serving.config import ApiKeys
        from deepgen.serving.local import serve_locally

        config, serve_config = self._engine_config(), self._config(ApiKeys())
        with serve_locally(load_pipeline(self), config, serve_config) as client:
            yield client
