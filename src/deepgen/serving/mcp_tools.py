"""Tools for agents (Model Context Protocol): `generate_image` and `edit_image`.

An agent cannot carry a picture from one call to the next, so every picture gets a name under which it can be
edited. Files are read and written only in allowed folders, because an agent does what texts from
anywhere tell it.
"""

# No `from __future__ import annotations`: the SDK reads the tools' types, which only `make_tools` knows. They
# are values of `_fields`, since pydantic comes with an extra; a type checker cannot follow that.
# pyright: reportInvalidTypeForm=false

import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

from deepgen._version import __version__
from deepgen.client import Client, ClientError, DrawnImage, RequestFailed, Step
from deepgen.extras import missing_extra
from deepgen.generation import refuse_unknown, standard_names
from deepgen.serving.bodies import read_body
from deepgen.serving.draining import REASON
from deepgen.serving.errors import ApiError
from deepgen.serving.images import MAX_FILE_BYTES, at_most
from deepgen.serving.schema import MAX_GUIDANCE, ImageGenerationRequest, Limits, limited

INSTRUCTIONS = (
    "Draws pictures from words and edits pictures as told. Every answer names its pictures; give such a name "
    "to edit_image to change that picture further. The same seed and words draw the same picture again."
)
MAX_IMAGES = 4  # in one answer: an agent reads each
# Of all pictures in an answer: the official client takes 1 MiB a message over HTTP, and base64 adds a third.
_ANSWER_BYTES = 700_000
_KEPT, _KEPT_BYTES = 64, 128 << 20  # pictures that can be named later
_MANY = 2**53
# A tool's own; others are those of the server it asks.
_BOUNDS = Limits(max_images=MAX_IMAGES, max_pixels=_MANY, max_prompt=_MANY, max_steps=_MANY)
_SETTLE_S = 0.5  # an answer is written after its call has ended
# Fields of both tools; the last is of edits alone.
_FIELDS = (
    *("size", "n", "seed", "num_inference_steps", "guidance_scale", "negative_prompt"),
    *("height", "width", "preset", "solver", "keep_unchanged"),
)


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where files may be.

    Attributes:
        save_to: every picture is also written there; None keeps them in memory.
        read_from: files under these folders may be edited, and those in `save_to`.
    """

    save_to: Path | None = None
    read_from: Sequence[Path] = ()

    def __post_init__(self) -> None:
        """Refuse folders that are none."""
        for folder in self._readable():
            if not folder.is_dir():
                raise ValueError(f"{folder} is no folder; create it first")

    def open(self, name: str) -> bytes:
        """The content of a file; ValueError where it lies elsewhere, which also hides whether it exists."""
        for folder in self._readable():
            path = (folder / Path(name).expanduser()).resolve()  # links and .. are followed before the look
            if path.is_relative_to(folder.resolve()) and path.is_file():
                if path.stat().st_size > MAX_FILE_BYTES:
                    raise ValueError(f"{name!r} is larger than {MAX_FILE_BYTES >> 20} MiB; save it smaller")
                return path.read_bytes()
        allowed = ", ".join(map(str, self._readable())) or "none: the server was started without --read-from"
        raise ValueError(f"there is no file {name!r} in the folders that may be read ({allowed})")

    def save(self, name: str, content: bytes) -> Path | None:
        """Write a picture; the path, or None where pictures stay in memory."""
        if self.save_to is None:
            return None
        path = self.save_to.resolve() / f"{name}.png"
        path.write_bytes(content)
        return path

    def _readable(self) -> list[Path]:
        return [*([self.save_to] if self.save_to else []), *self.read_from]


class Calls:
    """The calls under way, so that a server can end after them."""

    def __init__(self) -> None:
        self._num_calls, self._is_draining = 0, False
        self._changed = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[None]:
        """A call; ValueError once no more are taken."""
        with self._changed:
            if self._is_draining:
                raise ValueError(REASON)
            self._num_calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_calls -= 1
                self._changed.notify_all()

    def drain(self, timeout: float) -> None:
        """Take no more, and wait for the answers to those under way, at most so many seconds."""
        with self._changed:
            self._is_draining = True
            if self._num_calls == 0:
                return
            self._changed.wait_for(lambda: self._num_calls == 0, timeout)
        time.sleep(_SETTLE_S)


class Painter:
    """Draws for an agent: finds the pictures it names, streams, and gives up when the agent does.

    Args:
        client: gives the client; may take its time at the first call, because a model is being loaded.
        folders: where files may be.
    """

    def __init__(self, client: Callable[[], Client], folders: Folders | None = None) -> None:
        self._client, self._folders = client, folders or Folders()
        self._drawn: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def draw(
        self,
        prompt: str,
        images: Sequence[str] | None,
        fields: dict[str, Any],
        tell: Callable[[float, float], None],
        left: threading.Event,
        mask: str | None = None,
    ) -> list[tuple[DrawnImage, str]]:
        """Pictures, and what is said about each.

        `tell` hears of progress; `left` is set when the agent gives up. `images` and `mask` are names of
        earlier pictures, files or `data:` addresses.

        Raises:
            ValueError: a picture cannot be found.
            ClientError: the server refused or failed.
        """
        given = None if images is None else [self._find(image) for image in images]
        marks = None if mask is None else self._find(mask)
        client, total = self._client(), fields["n"]
        steps, pictures = [0.0] * total, []
        for event in client.stream(prompt, given, previews=0, mask=marks, **fields):
            if left.is_set():
                return []  # leaving the loop cancels the request
            if isinstance(event, Step) and event.index < total:
                steps[event.index] = event.step / event.num_steps
                tell(sum(steps), total)
            elif isinstance(event, DrawnImage):
                pictures.append(event)
        return [(picture, self._keep(picture)) for picture in sorted(pictures, key=lambda p: p.index)]

    def _find(self, image: str) -> bytes | str:
        """The picture of that name, an address as it is, or a file."""
        with self._lock:
            known = self._drawn.get(image)
        if known is not None:
            return known
        return image if image.startswith("data:image/") else self._folders.open(image)

    def _keep(self, image: DrawnImage) -> str:
        name = f"picture-{secrets.token_hex(4)}"
        with self._lock:
            self._drawn[name] = image.content
            size = sum(map(len, self._drawn.values()))
            while len(self._drawn) > 1 and (len(self._drawn) > _KEPT or size > _KEPT_BYTES):
                size -= len(self._drawn.popitem(last=False)[1])
        path = self._folders.save(name, image.content)
        said = f"{name}: {image.size}, seed {image.seed}"
        is_said = any(image.notice in warning for warning in image.warnings)
        said += f", {image.notice}" if image.notice and not is_said else ""
        said = said if path is None else f"{said}, saved as {path}"
        return "\n".join([said, *image.warnings])


def check_installed() -> None:
    """ImportError says what to install."""
    if find_spec("mcp") is None:
        raise missing_extra("tools for agents need mcp 2", "mcp")


def make_tools(painter: Painter) -> Any:
    """The MCP server with its two tools, for `run` of any transport; ImportError says what to install."""
    tools: dict[str, Callable[..., Any]] = {}
    server, drawn, Given = _server(tools), _drawing(painter), _fields()  # a namespace of types
    from mcp.server.mcpserver import Context  # pyright: ignore[reportMissingImports]
    from mcp.types import ToolAnnotations  # pyright: ignore[reportMissingImports]
    from pydantic import Field

    about = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)

    @server.tool(title="Draw a picture", annotations=about, structured_output=False)
    async def generate_image(
        context: Context,
        prompt: Annotated[str, Field(description="what should be in the picture")],
        size: Given.Size = None,
        n: Given.Count = 1,
        seed: Given.Seed = None,
        num_inference_steps: Given.Steps = None,
        guidance_scale: Given.Guidance = None,
        negative_prompt: Given.Negative = None,
        height: Given.Side = None,
        width: Given.Side = None,
        preset: Given.Preset = None,
        solver: Given.Solver = None,
    ) -> list:
        """Draw pictures from words. Answers with each picture, its name, size and seed."""
        given = (size, n, seed, num_inference_steps, guidance_scale, negative_prompt)
        given += (height, width, preset, solver, None)
        return await drawn(context, prompt, None, given)

    @server.tool(title="Edit a picture", annotations=about, structured_output=False)
    async def edit_image(
        context: Context,
        prompt: Annotated[str, Field(description="what should change, as an instruction")],
        image: Annotated[
            list[str],
            Field(
                min_length=1,
                max_length=Limits.max_references,
                description="names of earlier pictures, files, or data:image/...;base64 addresses",
            ),
        ],
        size: Annotated[str | None, Field(description="WIDTHxHEIGHT; default the first picture's")] = None,
        n: Given.Count = 1,
        seed: Given.Seed = None,
        num_inference_steps: Given.Steps = None,
        guidance_scale: Given.Guidance = None,
        negative_prompt: Given.Negative = None,
        height: Given.Side = None,
        width: Given.Side = None,
        preset: Given.Preset = None,
        solver: Given.Solver = None,
        mask: Given.Mask = None,
        keep_unchanged: Given.KeepUnchanged = None,
    ) -> list:
        """Change a picture as told, or make one from several. Answers as generate_image does."""
        given = (size, n, seed, num_inference_steps, guidance_scale, negative_prompt)
        given += (height, width, preset, solver, keep_unchanged)
        return await drawn(context, prompt, image, given, mask)

    tools.update(generate_image=generate_image, edit_image=edit_image)
    return server


def _fields() -> Any:
    """What fields of both tools hold, as annotations."""
    from pydantic import Field

    class Given:
        Size = Annotated[str | None, Field(description="WIDTHxHEIGHT in pixels; default the model's own")]
        Count = Annotated[int, Field(ge=1, le=MAX_IMAGES, description="how many pictures")]
        Seed = Annotated[int | None, Field(ge=0, description="the same seed draws the same picture again")]
        Steps = Annotated[int | None, Field(ge=1, description="solver steps; more is slower and finer")]
        Guidance = Annotated[float | None, Field(ge=0, le=MAX_GUIDANCE, description="weight of the prompt")]
        Negative = Annotated[str | None, Field(description="what to steer away from")]
        Side = Annotated[int | None, Field(ge=1, description="pixels, instead of size")]
        Preset = Annotated[str | None, Field(description="exact, balanced or fast")]
        Solver = Annotated[str | None, Field(description="euler, heun, dpm++ or unipc")]

        KeepUnchanged = Annotated[
            bool | None, Field(description="true: what the edit leaves as it was stays pixel for pixel")
        ]
        Mask = Annotated[
            str | None,
            Field(description="as large as the first picture, and transparent where that may change"),
        ]

    return Given


def _server(tools: Mapping[str, Callable[..., Any]]) -> Any:
    """An MCP server that refuses arguments which those of its tools do not know; it has none yet."""
    try:
        import anyio  # noqa: F401
        import pydantic  # noqa: F401
        from mcp.server.mcpserver import MCPServer  # pyright: ignore[reportMissingImports]
        from mcp.server.mcpserver.exceptions import ToolError  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise missing_extra("tools for agents need mcp 2", "mcp", error) from error

    class Server(MCPServer):  # the SDK's own ignores arguments it does not know, and converts others
        calls = Calls()

        async def list_tools(self) -> list[Any]:
            listed = await super().list_tools()
            for tool in listed:
                tool.input_schema["additionalProperties"] = False
            return listed

        async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
            try:
                with self.calls.one():
                    if name in tools:
                        arguments = _checked(arguments, set(signature(tools[name]).parameters) - {"context"})
                    return await super().call_tool(name, arguments, context)
            except (ValueError, ApiError) as error:
                raise ToolError(_said(error)) from error

    return Server(
        "deepgen", version=__version__, instructions=INSTRUCTIONS, log_level="WARNING", title="DeepGen"
    )


def _checked(given: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Arguments under today's names, read as HTTP reads them: "2" is no number, and null is the default.

    Raises:
        ValueError: an argument is unknown, or given twice, or is no name of a picture.
        ApiError: a value is none that HTTP takes; upper bounds are the server's, which looks again.
    """
    arguments = standard_names(given, ["images"])
    refuse_unknown(arguments, known)
    arguments = {name: value for name, value in arguments.items() if value is not None}
    images = {name: arguments.pop(name) for name in ("image", "mask") if name in arguments}
    named, most = images.get("image"), Limits.max_references
    if "image" in known and not (isinstance(named, list) and 1 <= len(named) <= most):
        raise ValueError(f"image must be a list of 1 to {most} names of pictures")
    if not all(isinstance(name, str) for name in [*(named or []), images.get("mask", "")]):
        raise ValueError("image and mask take names of pictures, which are text")
    body = read_body(_request_model(), arguments, _BOUNDS)
    return {name: getattr(body, name) for name in arguments} | images


@cache
def _request_model() -> type[ImageGenerationRequest]:
    return limited(ImageGenerationRequest, _BOUNDS)


def _drawing(painter: Painter) -> Callable[..., Awaitable[list]]:
    """What both tools do: draw in a thread, report progress, and stop when the agent gives up."""
    import anyio
    import anyio.from_thread
    from mcp.server.mcpserver import Context, Image  # pyright: ignore[reportMissingImports]
    from mcp.server.mcpserver.exceptions import ToolError  # pyright: ignore[reportMissingImports]

    async def drawn(
        context: Context, prompt: str, images: list[str] | None, given: tuple, mask: str | None = None
    ) -> list:
        fields, left = dict(zip(_FIELDS, given, strict=True)), threading.Event()

        def tell(done: float, total: float) -> None:
            anyio.from_thread.run(context.report_progress, done, total)

        try:
            found = await anyio.to_thread.run_sync(
                lambda: _shown(painter.draw(prompt, images, fields, tell, left, mask)), abandon_on_cancel=True
            )
        except (ClientError, ValueError, OSError, ImportError) as error:
            raise ToolError(_said(error)) from error
        finally:
            left.set()
        return [part for content, kind, said in found for part in (Image(data=content, format=kind), said)]

    return drawn


def _shown(drawn: Sequence[tuple[DrawnImage, str]]) -> list[tuple[bytes, str, str]]:
    """File, format and words of each picture of an answer, which together keep to its length."""
    shown = []
    for image, said in drawn:
        content, kind = at_most(image.content, _ANSWER_BYTES // len(drawn))
        how = "" if kind == "png" else ", shown as a JPEG; the name is of the whole picture"
        shown.append((content, kind, said + how))
    return shown


def _said(error: Exception) -> str:
    """A message for the agent: the reason, the field, and the id the log knows."""
    if not isinstance(error, RequestFailed):
        return re.sub(r"\s+", " ", str(error))
    field = f" (field {error.param})" if error.param else ""
    request = f" [{error.request_id}]" if error.request_id else ""
    return f"{error.message}{field}{request}"
