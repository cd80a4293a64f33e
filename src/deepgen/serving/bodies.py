"""Bodies of requests: read no further than the limit, and no longer than patience lasts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from deepgen.serving.errors import ApiError, invalid
from deepgen.serving.fields import Limits, check_text

# Names under which clients send the pictures of an edit.
IMAGE_PARTS = ("image", "image[]", "images", "images[]")


@dataclass(frozen=True)
class Form:
    """A multipart form: its text fields, and the files it brings."""

    values: dict[str, str]
    images: list[bytes] = field(default_factory=list)
    mask: bytes | None = None


def content_type(request: Any) -> str:
    """The media type without its parameters, in small letters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(request: Any, limits: Limits) -> dict[str, Any]:
    """A JSON object; `ApiError` where there is something else."""
    if content_type(request) != "application/json":
        raise ApiError(415, "send application/json", code="unsupported_media_type")
    body = bytearray()

    async def collect() -> None:
        async for chunk in _limited(request, limits):
            body.extend(chunk)

    await _in_time(collect(), limits)
    try:
        values = json.loads(bytes(body), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise invalid("the body is no valid JSON", code="invalid_json") from error
    if not isinstance(values, dict):
        raise invalid("the body must be a JSON object", code="invalid_json")
    return values


async def read_form(request: Any, limits: Limits) -> Form:
    """A multipart form; `ApiError` where it is damaged, repeats a field or brings too much."""
    from python_multipart.exceptions import FormParserError
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    if content_type(request) != "multipart/form-data":
        raise ApiError(415, "send multipart/form-data or application/json", code="unsupported_media_type")
    parser = MultiPartParser(
        request.headers,
        _limited(request, limits),
        max_files=limits.max_references + 2,
        max_fields=64,
        max_part_size=1 << 20,
    )
    try:
        parts = await _in_time(parser.parse(), limits)
    except (MultiPartException, FormParserError, ValueError, LookupError) as error:
        raise invalid(
            "the multipart body is damaged, or has too many or too large parts", code="invalid_form"
        ) from error
    values: dict[str, str] = {}
    images: list[bytes] = []
    mask = None
    try:
        for name, part in parts.multi_items():
            if not isinstance(part, UploadFile):
                if name in values or name in IMAGE_PARTS or name == "mask":
                    what = "is given twice" if name in values else "must be a file"
                    raise invalid(f"{name[:64]} {what}", name[:64], "invalid_form")
                values[name] = part
            elif name in IMAGE_PARTS:
                images.append(await part.read())
            elif name == "mask" and mask is None:
                mask = await part.read()
            else:
                raise invalid(
                    f"unexpected file {name[:64]!r}", check_text(name[:64], "name"), "unknown_parameter"
                )
    finally:
        await parts.close()
    return Form(values, images, mask)


async def _limited(request: Any, limits: Limits) -> AsyncIterator[bytes]:
    """The body in pieces, whatever its header claims."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.max_body_mib << 20:
            raise ApiError(
                413, f"the request is larger than {limits.max_body_mib} MiB", code="request_too_large"
            )
        yield chunk


async def _in_time(reading: Any, limits: Limits) -> Any:
    from starlette.requests import ClientDisconnect

    try:
        return await asyncio.wait_for(reading, limits.body_timeout_s)
    except TimeoutError as error:
        raise ApiError(408, "the request took too long to arrive", code="request_timeout") from error
    except ClientDisconnect as error:
        raise ApiError(499, "the client left before its request was complete", code="cancelled") from error


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")
