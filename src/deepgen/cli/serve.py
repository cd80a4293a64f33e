"""`deepgen serve`: the model behind the OpenAI Images API, and a page for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import UseAppendAction, arg

from deepgen.cli.listening import check_who_may_ask
from deepgen.cli.options import NamedModelOptions, Preset, short_name
from deepgen.extras import missing_extra
from deepgen.http_access import AllowedHosts

if TYPE_CHECKING:
    from deepgen.serving.config import ApiKeys, ServeConfig
    from deepgen.serving.engine import EngineConfig
    from deepgen.serving.jobs import EngineProtocol
    from deepgen.serving.schema import Limits


@dataclass(frozen=True, kw_only=True)
class Serve(NamedModelOptions):
    """Serve a model over HTTP, in the words of the OpenAI Images API, and as a page in the browser."""

    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 is every network this machine is on, and asks for keys."""
    port: int = 8000
    """The port to listen on; 0 takes a free one."""
    api_key_file: Annotated[Path | None, arg(metavar="FILE")] = None
    """Who may ask: one NAME:KEY a line. Without it everybody who reaches the port may."""
    allow_anyone: bool = False
    """Listen beyond this machine without keys, because something in front checks who asks."""
    allowed_hosts: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME")] = ()
    """A name the server answers to, such as images.example.org or *.example.org, beside this machine's own;
    repeat for several; * is any. A server others reach answers to any name where it asks for keys and none
    are given here."""
    max_connections: int = 1024
    """Connections at once; at the limit the one that was idle longest is closed."""
    origin: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="URL")] = ()
    """A web page's origin whose requests are taken, such as https://example.org; repeat for several."""
    image_host: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="HOST")] = ()
    """A host whose pictures may be given by address, such as example.org or *.example.org; repeat for
    several. Private addresses are never fetched."""
    check_request: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="MODULE:FUNCTION")] = ()
    """A function that gets every request before it is drawn, and may raise deepgen.serving.hooks.Refusal."""
    check_image: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="MODULE:FUNCTION")] = ()
    """The same for every request with each of its pictures, before they are sent; previews are then kept."""
    preset: Preset = "exact"
    """Of requests that name none; balanced, fast: fewer steps for about the same picture."""
    name: str | None = None
    """What clients see under /v1/models. Default: `tiny`, or the end of the model's path or Hub name."""
    workers: int | None = None
    """Processes that hold the model, dealt to the accelerators; 0 draws in the server's own process, which
    then dies with it. Default: one for each CUDA device, otherwise one."""
    max_batch: int = 8
    """Pictures in one forward; with 1 each is bit for bit what it is alone."""
    exact: bool = False
    """Fill every forward up to --max-batch rows, so that each picture is bit for bit what it is alone."""
    adapter: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=PATH|FOLDER")] = ()
    """A LoRA that requests may ask for by name, or a folder of them; repeat for several."""
    admin_key_file: Annotated[Path | None, arg(metavar="FILE")] = None
    """Who may add and remove adapters while the server runs: one NAME:KEY a line, as in --api-key-file."""
    adapter_folder: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Where adapters that are added later lie; nothing outside it is opened."""
    max_running: int = 16
    """Pictures that each worker draws at once."""
    encoding_memory: int = 256
    """MiB of encoded prompts and references that each worker keeps, so that a picture which is edited again
    is not read again; 0 keeps none."""
    max_waiting: int = 64
    """Pictures that may wait; what comes after is told when to come back."""
    max_waiting_per_key: int | None = None
    """Pictures of one key that may wait."""
    max_images: int = 10
    """Pictures one request may ask for."""
    max_steps: int = 200
    """Solver steps one request may ask for."""
    max_pixels: int = 2048 * 2048
    """Pixels of a picture one may ask for."""
    max_edit_pixels: int = 12 * 2**20
    """Pixels of an edit that comes back as large as its first picture; with a mask, of that picture."""
    max_held_pixels: int = 64 * 2**20
    """Pixels that all requests together may hold: given pictures as they are read, masks, and answers."""
    max_bodies_mib: int = 256
    """MiB of requests that are on their way, of all together; JSON counts three times, for its copies."""
    timeout: float = 600.0
    """Seconds until a request's pictures must be done."""
    drain: float = 600.0
    """Seconds that accepted requests are given once the server is told to stop (SIGTERM, Ctrl-C)."""
    drain_notice: float = 0.0
    """Seconds that the port stays open then in any case, so that a balancer that asks /ready learns of it."""
    log_format: Literal["json", "text"] = "json"
    """The form of the lines on stderr; json: each is one object, with a request's key, pictures and error."""
    trace: bool = False
    """Send a span for each request to $OTEL_EXPORTER_OTLP_ENDPOINT; needs the extra `trace`."""
    refuse_sizes: bool = False
    """Refuse a size that the model does not draw. Without it such a picture is drawn at the nearest size and
    brought to the one asked for, and the answer says so."""
    chat_images: Literal["url", "data", "none"] = "url"
    """How the text of a chat's answer shows its picture where the request does not say: a Markdown image with
    an address that works for an hour, with a data: address, or not at all."""
    metadata: bool = True
    """Write prompt, seed and settings into the files."""
    c2pa_certificate: Annotated[Path | None, arg(metavar="FILE.pem")] = None
    """Sign every picture with this certificate (its chain after it); needs the extra `c2pa`."""
    c2pa_key: Annotated[Path | None, arg(metavar="FILE.pem")] = None
    """The certificate's private key."""

    def run(self) -> int:
        """Exit code 0 once stopped, with every accepted request answered."""
        try:
            import fastapi  # noqa: F401 - asked for before gigabytes are loaded
            import prometheus_client  # noqa: F401
            import pydantic  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise missing_extra("serving needs more packages", "serve", error) from error
        from deepgen.serving.config import ApiKeys
        from deepgen.serving.log import logging_to_stderr

        keys = ApiKeys() if self.api_key_file is None else ApiKeys.read(self.api_key_file)
        check_who_may_ask(self.host, keys, self.allow_anyone)
        engine_config, config = self._engine_config(), self._config(keys)
        with logging_to_stderr(self.log_format):
            self._serve(engine_config, config)
        return 0

    def _engine_config(self) -> EngineConfig:
        """How the model is used; wrong options are told before it is loaded."""
        from deepgen.serving.adapters import read_loras
        from deepgen.serving.engine import EngineConfig

        self.check_model()
        if self.solver != "euler":
            raise ValueError(f"--solver {self.solver}: serving starts with euler only; leave it out")
        if self.encoding_memory < 0:
            raise ValueError(f"--encoding-memory must be 0 or more MiB, got {self.encoding_memory}")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"--workers must be 0 or more, got {self.workers}")
        self._check_at_least_one("max_batch", "max_running", "max_waiting")
        return EngineConfig(
            max_batch=self.max_batch,
            max_running=self.max_running,
            max_waiting=self.max_waiting,
            max_waiting_per_key=self.max_waiting_per_key,
            is_exact=self.exact,
            loras=read_loras(self.adapter),
            preset=self.preset,
            max_encoding_bytes=self.encoding_memory * 2**20,
        )

    def _config(self, keys: ApiKeys) -> ServeConfig:
        """What is answered to whom; wrong options are told before the model is loaded."""
        from deepgen.serving.config import ServeConfig
        from deepgen.serving.fetch import Fetcher
        from deepgen.serving.hooks import Hooks
        from deepgen.serving.middleware import Tracer

        for name in ("timeout", "drain", "drain_notice"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"--{name.replace('_', '-')} must be 0 or more seconds, got {getattr(self, name)}"
                )
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port must be between 0 and 65535, got {self.port}")
        self._check_at_least_one("max_connections")
        Fetcher(self.image_host)  # tells a bad host
        return ServeConfig(
            model_name=self.public_name,
            # a path stays unknown to clients
            model_aliases=() if Path(self.model).expanduser().exists() else (self.model,),
            keys=keys,
            limits=self._limits(),
            origins=self.origin,
            allowed_hosts=AllowedHosts.of_server(self.host, self.allowed_hosts, not keys.is_open),
            metadata=self.metadata,
            image_hosts=self.image_host,
            hooks=Hooks.load(self.check_request, self.check_image),
            credentials=self._credentials(),
            tracer=Tracer.from_environment() if self.trace else None,
            fits_sizes=not self.refuse_sizes,
            chat_images=self.chat_images,
            admin_keys=self._admin_keys(),
            adapter_dir=self.adapter_folder,
        )

    def _limits(self) -> Limits:
        from deepgen.serving.schema import Limits

        self._check_at_least_one(
            *("max_images", "max_waiting", "max_steps", "max_pixels", "max_edit_pixels", "max_held_pixels"),
            "max_bodies_mib",
        )
        return Limits(
            max_images=min(self.max_images, self.max_waiting),
            max_steps=self.max_steps,
            max_pixels=self.max_pixels,
            max_edit_pixels=self.max_edit_pixels,
            max_held_pixels=self.max_held_pixels,
            max_bodies_mib=self.max_bodies_mib,
            timeout_s=self.timeout,
        )

    def _check_at_least_one(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")

    @property
    def public_name(self) -> str:
        """What the model is called by clients."""
        return self.name or short_name(self.model)

    def _admin_keys(self) -> Any:
        from deepgen.serving.config import ApiKeys

        if (self.adapter_folder is None) != (self.admin_key_file is None):
            raise ValueError(
                "adding adapters needs both --admin-key-file and --adapter-folder; give the other"
            )
        if self.adapter_folder is not None and not self.adapter_folder.is_dir():
            raise ValueError(f"--adapter-folder {self.adapter_folder} is no folder; make it, or give another")
        return ApiKeys() if self.admin_key_file is None else ApiKeys.read(self.admin_key_file)

    def _credentials(self) -> Any:
        if (self.c2pa_certificate is None) != (self.c2pa_key is None):
            raise ValueError("signing needs both --c2pa-certificate and --c2pa-key; give the other one too")
        if self.c2pa_certificate is None or self.c2pa_key is None:
            return None
        from deepgen.serving.provenance import ContentCredentials

        return ContentCredentials(self.c2pa_certificate, self.c2pa_key, self.public_name)

    def _engine(self, config: EngineConfig, measure: Callable[[str, float], None]) -> EngineProtocol:
        """Worker processes, or with `--workers 0` an engine in this one."""
        import torch

        from deepgen.cli.loading import load_pipeline
        from deepgen.serving.engine import Engine
        from deepgen.serving.pool import Pool
        from deepgen.uploads.memory import keep_little

        if self.workers != 0:  # here no model runs, only pictures come and go
            keep_little()
        if self.workers == 0:
            pipe = load_pipeline(self)
            pipe.set_progress_bar_config(disable=True)
            return Engine(pipe, config, measure)
        num_devices = torch.cuda.device_count() if self.device in ("auto", "cuda") else 0
        num_workers = self.workers or num_devices or 1
        return Pool(partial(load_pipeline, self), config, num_workers, num_devices, measure, self.log_format)

    def _serve(self, engine_config: EngineConfig, config: ServeConfig) -> None:
        from deepgen.serving.app import make_app
        from deepgen.serving.connections import ConnectionLimits
        from deepgen.serving.draining import Ending, run, say
        from deepgen.serving.metrics import Metrics

        metrics = Metrics()
        engine = self._engine(engine_config, metrics.measure)
        app = make_app(engine, config, metrics)
        ending = Ending(
            drain=self.drain,
            notice=self.drain_notice,
            on_drain=lambda: engine.drain(timeout=0),
            on_give_up=engine.close,
        )
        try:
            run(
                app,
                ending,
                on_listen=say("deepgen: serving on {url} until SIGTERM or Ctrl-C"),
                on_hangup=_rereading(config.keys, config.admin_keys),
                host=self.host,
                port=self.port,
                limits=ConnectionLimits(max_connections=self.max_connections),
            )
        finally:
            engine.close()


def _rereading(*lists: ApiKeys) -> Callable[[], object] | None:
    """What reads again the files of those key lists that come from one; None where none does."""
    read = [keys for keys in lists if not keys.is_open]
    return (lambda: [keys.reread() for keys in read]) if read else None
