"""How the server presents itself, who may ask, and what is allowed.

API keys are read from a file, kept as digests and compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from deepgen.http_access import AllowedHosts
from deepgen.serving.errors import ApiError
from deepgen.serving.hooks import Hooks
from deepgen.serving.middleware import Tracer
from deepgen.serving.provenance import ContentCredentials
from deepgen.serving.schema import Limits

logger = logging.getLogger(__name__)


class ApiKeys:
    """Who may ask. Without keys all clients may, and are told apart by address.

    Args:
        keys: name -> key; the name is what logs show.
        path: the file they are from, for `reread`.
    """

    def __init__(self, keys: Mapping[str, str] | None = None, path: Path | None = None) -> None:
        self._digests = {name: _digest(key) for name, key in (keys or {}).items()}
        self._path = path

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return not self._digests

    @staticmethod
    def read(path: Path) -> ApiKeys:
        """Keys of a file: one a line, `NAME:KEY`; lines that are empty or begin with # say nothing.

        Raises:
            ValueError: a line is something else, or there is no key; keys are never part of the message.
        """
        keys: dict[str, str] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            match = re.fullmatch(r"([\w.-]{1,64}):(\S{16,512})", line.strip())
            if not match or match[1] in keys:
                raise ValueError(
                    f"{path}, line {number}: expected NAME:KEY, a new name and 16 characters or more"
                )
            keys[match[1]] = match[2]
        if not keys:
            raise ValueError(f"{path} holds no key; write one a line, NAME:KEY")
        return ApiKeys(keys, path)

    def reread(self) -> None:
        """Take the keys that are in the file now; where it cannot be read, or a line is wrong, none changes.

        What was done is logged. Requests that were accepted are drawn to their end, whoever asked.
        """
        if self._path is None:
            raise ValueError("these keys are from no file")
        try:
            digests = ApiKeys.read(self._path)._digests
        except (OSError, ValueError) as error:
            logger.error("the keys stay as they were: %s", error)
            return
        gone, new = self._digests.keys() - digests.keys(), digests.keys() - self._digests.keys()
        self._digests = digests  # at once, so that no request meets half of them
        words = [f"{w}: {', '.join(sorted(names))}" for w, names in (("new", new), ("gone", gone)) if names]
        logger.info("%s: %s", self._path, "; ".join([f"{len(digests)} keys", *words]))

    def owner(self, authorization: str | None, address: str) -> str:
        """The name of the client that sent this `Authorization` header from this address.

        Raises:
            ApiError: 401, the key is missing or wrong.
        """
        if self.is_open:
            return address
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ApiError(401, "no API key; send Authorization: Bearer KEY", code="missing_api_key")
        digest, found = _digest(key.strip()), None
        for name, known in self._digests.items():  # all of them, so that time tells nothing
            if hmac.compare_digest(digest, known):
                found = name
        if found is None:
            raise ApiError(401, "this API key is not known here", code="invalid_api_key")
        return found


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """How the server presents itself and what it allows.

    Attributes:
        model_name: what clients see under `/v1/models`.
        model_aliases: further names by which requests may ask for it.
        keys: who may ask.
        limits: what one request may ask for.
        origins: web pages of other origins that may send requests.
        allowed_hosts: names under which the server answers; default those that no stranger can own.
        metadata: write prompt, seed and settings into PNG files.
        image_hosts: from where pictures may be fetched; see `Fetcher`.
        hooks: what looks at requests and pictures.
        credentials: signs every picture; None leaves them unsigned.
        tracer: gets a span for each request.
        fits_sizes: draw a size that the model has not at the nearest it has, and bring the picture to the one
            asked for; otherwise it is refused.
        chat_images: how the text of a chat's answer shows a picture whose request does not say: a Markdown
            image with an address that works for an hour, with a `data:` address, or not at all.
        admin_keys: who may add and remove adapters; without keys nobody may.
        adapter_dir: where adapters that are added lie; None lets none be added.
    """

    model_name: str = "deepgen-1.0"
    model_aliases: tuple[str, ...] = ()
    keys: ApiKeys = field(default_factory=ApiKeys)
    limits: Limits = field(default_factory=Limits)
    origins: tuple[str, ...] = ()
    allowed_hosts: AllowedHosts = field(default_factory=AllowedHosts)
    metadata: bool = True
    image_hosts: tuple[str, ...] = ()
    hooks: Hooks = field(default_factory=Hooks)
    credentials: ContentCredentials | None = None
    tracer: Tracer | None = None
    fits_sizes: bool = True
    chat_images: Literal["url", "data", "none"] = "url"
    admin_keys: ApiKeys = field(default_factory=ApiKeys)
    adapter_dir: Path | None = None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
