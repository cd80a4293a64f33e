"""API keys: read from a file, kept as digests, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path

from deepgen.serving.errors import ApiError


class ApiKeys:
    """Who may ask. Without keys everybody may, and is told apart by address.

    Args:
        keys: name -> key; the name is what logs show.
    """

    def __init__(self, keys: Mapping[str, str] | None = None) -> None:
        self._digests = {name: _digest(key) for name, key in (keys or {}).items()}

    @property
    def is_open(self) -> bool:
        """Whether everybody may ask."""
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
        return ApiKeys(keys)

    def owner(self, authorization: str | None, address: str) -> str:
        """The name of whoever sent this `Authorization` header from this address.

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


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
