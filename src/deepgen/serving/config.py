"""How the server presents itself and what it allows."""

from __future__ import annotations

from dataclasses import dataclass, field

from deepgen.serving.fields import Limits
from deepgen.serving.hooks import Hooks
from deepgen.serving.keys import ApiKeys
from deepgen.serving.provenance import ContentCredentials
from deepgen.serving.tracing import Tracer


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """How the server presents itself and what it allows.

    Attributes:
        model_name: what clients see under `/v1/models`.
        keys: who may ask.
        limits: what one request may ask for.
        origins: web pages of other origins that may send requests.
        metadata: write prompt, seed and settings into PNG files.
        image_hosts: from where pictures may be fetched; see `Fetcher`.
        hooks: what looks at requests and pictures.
        credentials: signs every picture; None leaves them unsigned.
        tracer: gets a span for each request.
    """

    model_name: str = "deepgen-1.0"
    keys: ApiKeys = field(default_factory=ApiKeys)
    limits: Limits = field(default_factory=Limits)
    origins: tuple[str, ...] = ()
    metadata: bool = True
    image_hosts: tuple[str, ...] = ()
    hooks: Hooks = field(default_factory=Hooks)
    credentials: ContentCredentials | None = None
    tracer: Tracer | None = None
