"""A client of `deepgen serve` for scripts: pictures in, pictures out, previews while it draws.

The official `openai` clients work too; this one takes every kind of picture the pipeline takes, and knows the
server's own fields and events.

    client = Client("http://127.0.0.1:8000")
    cat, = client.generate("a cat", seed=1)
    cat.save("cat.png")
    client.edit("replace the cat with a dog", cat)[0].image.show()
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union
from urllib.parse import urlsplit

import httpx

from deepgen.addresses import is_loopback
from deepgen.http_client import (
    CONNECTION_ERRORS,
    growing_pause,
    make_client,
    read_at_most,
    retry_after,
    send_patiently,
)
from deepgen.moved import renamed

if TYPE_CHECKING:
    from PIL import Image

    from deepgen.data.images import ImageSource

_PASSES = {408, 409, 429, 500, 502, 503, 504}  # another try may end otherwise, unless the server says not
_PASSED_ON = ("http://", "https://", "data:")
_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


class ClientError(Exception):
    """A request failed."""


class ServerUnreachable(ClientError):
    """No server answers at this address, or the connection broke on every try."""


class RequestFailed(ClientError):
    """The server said no.

    Attributes:
        status: the HTTP status; None where the error came within a stream.
        message: for people.
        code: for programs, such as `queue_full`; docs/serve.md has the table.
        param: the field at fault.
        request_id: the name under which the server's log knows the request.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
    ) -> None:
        known = ", ".join(str(part) for part in (status, code, request_id) if part is not None)
        super().__init__(f"{message} ({known})" if known else message)
        self.message, self.status, self.code = message, status, code
        self.param, self.request_id = param, request_id


@dataclass(frozen=True)
class DrawnImage:
    """A picture the server drew.

    Attributes:
        content: the file, as `output_format` said; PNG by default.
        seed: draws it again, alone.
        size: `WIDTHxHEIGHT`.
        index: which of the request's pictures, from 0.
        drawn_size: `WIDTHxHEIGHT` the model drew, from which an edit is brought to the size of its source;
            empty where the server does not say.
        warnings: what the server says beside it, such as that a prompt was cut.
    """

    content: bytes = field(repr=False)
    seed: int | None
    size: str
    index: int = 0
    drawn_size: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def notice(self) -> str:
        """`drawn at 512x384, enlarged to 4000x3000` where that is so, else nothing."""
        from deepgen.data.resize import enlarged_from

        if not (self.size and self.drawn_size):
            return ""
        (width, height), (drawn_width, drawn_height) = (
            map(int, size.split("x")) for size in (self.size, self.drawn_size)
        )
        return enlarged_from((drawn_height, drawn_width), (height, width))

    @property
    def image(self) -> Image.Image:
        """The picture, opened."""
        return _opened(self.content)

    def save(self, path: str | Path) -> Path:
        """Write the file as it came, with its record; the path.

        Raises:
            ValueError: its name promises another format; ask the server for that one with `output_format`.
        """
        path = Path(path)
        asked, sent = _FORMATS.get(path.suffix.lower()), _format_of(self.content)
        if asked is not None and sent is not None and asked != sent:
            raise ValueError(
                f"{path}: the picture came as {sent}; name it .{sent}, or ask with output_format={asked!r}"
            )
        path.write_bytes(self.content)
        return path


@dataclass(frozen=True)
class Waiting:
    """The request is in the queue, behind `ahead` pictures."""

    ahead: int


@dataclass(frozen=True)
class Step:
    """`step` of `num_steps` solver steps of picture `index` are done."""

    index: int
    step: int
    num_steps: int


@dataclass(frozen=True)
class PreviewImage:
    """A rough, small look at picture `index` on its way; `number` counts from 0."""

    content: bytes = field(repr=False)
    index: int
    number: int

    @property
    def image(self) -> Image.Image:
        """The preview, opened."""
        return _opened(self.content)


ClientEvent = Waiting | Step | PreviewImage | DrawnImage
GivenImage = Union["ImageSource", DrawnImage]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Time-outs and retries of a client while a server is busy or not reachable.

    Attributes:
        timeout: seconds a server may be silent within one try.
        retries: tries after the first, for a full queue, a server that restarts or a connection that broke.
        backoff: seconds before the first retry, doubled each time; half of it is random, so that many clients
            do not come back together. A `Retry-After` of the server counts instead.
        longest_wait: seconds between two tries at most; a server that asks for more ends them.
    """

    timeout: float = 600.0
    retries: int = 3
    backoff: float = 0.5
    longest_wait: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what could never answer."""
        if self.timeout <= 0 or self.retries < 0:
            raise ValueError(
                f"timeout must be positive and retries 0 or more, got {self.timeout} and {self.retries}"
            )


class Client:
    """Asks a running `deepgen serve`, or any server of the OpenAI Images API that takes JSON edits.

    Every method takes the further fields of docs/serve.md by name (`guidance_scale=2.0`); None leaves a field
    to the server.

    Args:
        url: where the server is, with or without `/v1`.
        api_key: where the server asks for one.
        patience: time-outs and retries.

    Raises:
        RequestFailed: the server refused or failed.
        ServerUnreachable: it does not answer.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        *,
        patience: Patience | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url must start with http:// or https://, got {url!r}")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._key, self._patience = api_key, patience or Patience()
        # A proxy of the network knows no way to this machine's own ports.
        is_here = is_loopback(urlsplit(url).hostname or "")
        self._http = make_client(self._patience.timeout, trust_env=not is_here)

    def __repr__(self) -> str:
        """Without the key."""
        return f"Client({self.url!r})"

    def generate(
        self, prompt: str, *, n: int = 1, size: str | None = None, seed: int | None = None, **fields: Any
    ) -> list[DrawnImage]:
        """Draw `n` pictures; picture k has `seed` + k. `size` is `WIDTHxHEIGHT`; default the model's own."""
        body = _body(prompt, n, size, seed, fields)
        return _images(self._json("/v1/images/generations", body))

    def edit(
        self,
        prompt: str,
        images: GivenImage | Sequence[GivenImage],
        *,
        mask: GivenImage | None = None,
        n: int = 1,
        size: str | None = None,
        seed: int | None = None,
        **fields: Any,
    ) -> list[DrawnImage]:
        """Change a picture by an instruction, or make one from several.

        `images` are paths, bytes of files, Pillow pictures, arrays, tensors, pictures the server drew, or
        addresses, which the server may refuse. `mask` is as large as the first and transparent where that may
        change.
        """
        body = _body(prompt, n, size, seed, {**fields, **_references(images, mask)})
        return _images(self._json("/v1/images/edits", body))

    def stream(
        self,
        prompt: str,
        images: GivenImage | Sequence[GivenImage] | None = None,
        *,
        previews: int = 3,
        mask: GivenImage | None = None,
        n: int = 1,
        size: str | None = None,
        seed: int | None = None,
        **fields: Any,
    ) -> Iterator[ClientEvent]:
        """What happens, while it happens: place in the queue, steps, previews, and each picture once drawn.

        With `images` it is an edit. `previews` of each picture, 0 to 3. Leaving the loop cancels the request.
        """
        more = {"stream": True, "partial_images": previews, "include_progress": True}
        path = "/v1/images/generations"
        if images is not None:
            path, more = "/v1/images/edits", {**more, **_references(images, mask)}
        elif mask is not None:
            raise ValueError("a mask says what of a picture may change; give the picture as images")
        # Checked here and not in the generator, which raises only when it is iterated over.
        return self._events(path, _body(prompt, n, size, seed, {**fields, **more}), n)

    def model(self) -> dict[str, Any]:
        """The model's name (`id`), its `defaults`, `presets` with their steps, `size_unit` and `max_side`."""
        return self._json("/v1/models")["data"][0]

    def is_ready(self) -> bool:
        """Whether a deepgen server is there and takes requests now; asks once."""
        try:
            with self._http.stream("GET", f"{self.url}/ready", timeout=10) as reply:
                told = json.loads(read_at_most(reply, 65536))
                return reply.status_code < 400 and told.get("status") == "ready"
        except (*CONNECTION_ERRORS, ValueError, AttributeError):
            return False

    def _events(self, path: str, body: Mapping[str, Any], n: int) -> Iterator[ClientEvent]:
        finished, request_id = 0, None
        try:
            with closing(self._open(path, body)) as reply:
                request_id = _request_id(reply)
                for data in _server_sent(reply):
                    if (event := _read_event(data, request_id)) is not None:
                        finished += isinstance(event, DrawnImage)
                        yield event
        except CONNECTION_ERRORS as error:
            raise ServerUnreachable(
                f"the stream of {self.url} broke after {finished} of {n} pictures: {error!r}"
            ) from error
        if finished < n:
            raise RequestFailed(
                f"the stream ended after {finished} of {n} pictures", code="cut_short", request_id=request_id
            )

    def _json(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        with closing(self._open(path, body)) as reply:
            try:
                return json.loads(reply.read())
            except (*CONNECTION_ERRORS, ValueError) as error:
                raise ServerUnreachable(f"{self.url}{path} answered with half a reply: {error!r}") from error

    def _open(self, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        """The reply to the first try that is answered well; reading and closing it is the caller's."""
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"

        def send() -> httpx.Response:
            method = "GET" if content is None else "POST"
            request = self._http.build_request(method, self.url + path, content=content, headers=headers)
            return self._http.send(request, stream=True)

        try:
            reply = send_patiently(send, retries=self._patience.retries, pause=self._pause, sleep=time.sleep)
        except CONNECTION_ERRORS as error:
            tries = f"{error}, {self._patience.retries + 1} tries"
            raise ServerUnreachable(
                f"{self.url} does not answer ({tries}); start it with `deepgen serve`"
            ) from error
        if reply.status_code < 400:
            return reply
        with closing(reply):
            raise _refusal(reply)

    def _pause(self, attempt: int, refusal: httpx.Response | None) -> float | None:
        """Seconds until the next try; None where there is none."""
        longest = self._patience.longest_wait
        pause = growing_pause(attempt, self._patience.backoff, longest)
        if refusal is None:
            return pause
        asked = retry_after(refusal)
        pause = pause if asked is None else asked
        is_final = refusal.status_code not in _PASSES or refusal.headers.get("x-should-retry") == "false"
        return None if is_final or pause > longest else pause


def _body(
    prompt: str, n: int, size: str | None, seed: int | None, fields: Mapping[str, Any]
) -> dict[str, Any]:
    asked = {"prompt": prompt, "n": n, "size": size, "seed": seed, "response_format": "b64_json", **fields}
    return {name: value for name, value in asked.items() if value is not None}


def _references(
    images: GivenImage | Sequence[GivenImage], mask: GivenImage | None
) -> dict[str, list[dict[str, str]] | dict[str, str]]:
    given = images if isinstance(images, list | tuple) else [images]
    if not given:
        raise ValueError("an edit needs a picture; give one or several as images")
    found: dict[str, Any] = {"images": [{"image_url": _address(image)} for image in given]}
    return found if mask is None else {**found, "mask": {"image_url": _address(mask)}}


def _address(image: Any) -> str:
    """A picture as an address; files go as they are, since the server judges bytes and turns photographs."""
    if isinstance(image, str) and image.startswith(_PASSED_ON):
        return image
    if isinstance(image, DrawnImage):
        content = image.content
    elif isinstance(image, str | Path):
        content = Path(image).read_bytes()
    elif isinstance(image, bytes | bytearray | memoryview):
        content = bytes(image)
    else:
        content = _as_png(image)
    return f"data:image/unknown;base64,{base64.b64encode(content).decode()}"


def _as_png(image: Any) -> bytes:
    """A Pillow picture, an array or a tensor as a file; transparency stays, since a mask is made of it."""
    from PIL import Image, ImageOps

    from deepgen.data.images import open_image

    if isinstance(image, Image.Image) and image.mode in ("1", "L", "RGB", "RGBA", "LA", "P"):
        image = ImageOps.exif_transpose(image)
    else:
        image = open_image(image)
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _images(answer: Mapping[str, Any]) -> list[DrawnImage]:
    return [
        DrawnImage(
            base64.b64decode(entry["b64_json"]),
            entry.get("seed"),
            answer.get("size", ""),
            index,
            answer.get("drawn_size", ""),
            tuple(answer.get("warnings") or ()),
        )
        for index, entry in enumerate(answer["data"])
    ]


def _server_sent(reply: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON of each event of a stream."""
    for line in _lines(reply):
        data = line.removeprefix(b"data: ").strip()
        if line.startswith(b"data: ") and data != b"[DONE]":
            yield json.loads(data)


def _lines(reply: httpx.Response) -> Iterator[bytes]:
    """Bytes between newlines; httpx's own lines also end at characters that may stand within a text."""
    parts: list[bytes] = []
    for chunk in reply.iter_bytes():
        first, *others = chunk.split(b"\n")
        parts.append(first)
        for other in others:
            yield b"".join(parts)
            parts = [other]
    yield b"".join(parts)


def _read_event(data: Mapping[str, Any], request_id: str | None) -> ClientEvent | None:
    if "error" in data:
        raise _failed(data["error"], None, request_id)
    kind = data.get("type", "").partition(".")[2]
    index = data.get("index", 0)
    if kind == "completed":
        content = base64.b64decode(data["b64_json"])
        return DrawnImage(
            content,
            data.get("seed"),
            data.get("size", ""),
            index,
            data.get("drawn_size", ""),
            tuple(data.get("warnings") or ()),
        )
    if kind == "partial_image":
        return PreviewImage(base64.b64decode(data["b64_json"]), index, data["partial_image_index"])
    if kind == "progress" and "waiting" in data:
        return Waiting(data["waiting"])
    if kind == "progress":
        return Step(index, data["step"], data["num_steps"])
    return None  # an event of a later server


def _request_id(reply: httpx.Response) -> str | None:
    """The id of a request, once where a proxy, such as Ray's, repeats it."""
    given = reply.headers.get("x-request-id")
    return None if given is None else given.partition(",")[0]


def _refusal(reply: httpx.Response) -> RequestFailed:
    """What an answer of 400 or more says."""
    request_id = _request_id(reply)
    try:
        told = json.loads(read_at_most(reply, 65536))["error"]
        return _failed(told, reply.status_code, request_id)
    except (*CONNECTION_ERRORS, ValueError, LookupError, TypeError, AttributeError):
        said = f"{reply.url} answered {reply.status_code} {reply.reason_phrase}"
        return RequestFailed(
            f"{said}, and not in the words of this API", status=reply.status_code, request_id=request_id
        )


def _failed(told: Mapping[str, Any], status: int | None, request_id: str | None) -> RequestFailed:
    return RequestFailed(
        told["message"],
        status=status,
        code=told.get("code"),
        param=told.get("param"),
        request_id=request_id,
    )


def _format_of(content: bytes) -> str | None:
    """By its first bytes; None where it is none of those a server sends."""
    if content.startswith(b"\x89PNG"):
        return "png"
    if content.startswith(b"\xff\xd8"):
        return "jpeg"
    return "webp" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else None


def _opened(content: bytes) -> Image.Image:
    from PIL import Image

    image = Image.open(BytesIO(content))
    image.load()
    return image


__getattr__ = renamed(
    __name__, {"Picture": "deepgen.client.DrawnImage", "Preview": "deepgen.client.PreviewImage"}
)
