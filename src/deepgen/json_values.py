"""JSON of strangers in, JSON for strangers out.

Python reads more than JSON (NaN, numbers that become infinite, bytes that are no Unicode) and writes more
than it as well. What comes in is read strictly here; what goes out can be read by every parser, whatever a
message repeats of the request.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def read_json_text(body: bytes) -> Any:
    """The values of a JSON text in UTF-8, UTF-16 or UTF-32.

    Strings may still hold lone surrogates, which JSON can spell; see `unicode_fault`.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or holds a number that Python cannot.
    """
    try:
        text = body.decode(json.detect_encoding(body))
        return json.loads(text.removeprefix("\ufeff"), parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def json_text(values: Any) -> bytes:
    """Values as JSON in ASCII: NaN and infinities are null, and lone surrogates question marks."""
    try:
        text = json.dumps(values, allow_nan=False)
    except ValueError:
        text = json.dumps(_plain(values), allow_nan=False)
    if "\\ud" in text:  # half of a pair, or a pair, which stays as it is
        text = json.dumps(_plain(values), allow_nan=False)
    return text.encode()


def writable(text: str) -> str:
    """The text with question marks in place of lone surrogates, which UTF-8 cannot write."""
    return text.encode("utf-8", "replace").decode()


def unicode_fault(text: str) -> int | None:
    """Where the first lone surrogate of a text is; None where it is valid Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return writable(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {writable(str(key)): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
