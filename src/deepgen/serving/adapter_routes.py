"""`/v1/adapters`: LoRAs that come and go while the server runs, by the keys of those who may do that.

Files are named relative to the one folder that the server was given for them; nothing outside it is opened,
whatever links lead there. The routes are not in the OpenAPI document, which is for those who draw.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from deepgen.extras import missing_extra
from deepgen.serving.adapters import NameTaken
from deepgen.serving.answers import json_response
from deepgen.serving.bodies import read_body, read_json
from deepgen.serving.errors import ApiError, ResponseModel, from_engine, invalid
from deepgen.serving.jobs import EngineError
from deepgen.serving.request_handler import RequestHandler
from deepgen.serving.schema import Body, Text

try:
    from pydantic import Field
except ImportError as error:
    raise missing_extra("serving needs pydantic", "serve", error) from error


class AdapterRequest(Body):
    """A LoRA to load: the name that requests will ask for, and its file or folder below the server's folder
    for adapters.
    """

    name: Annotated[Text, Field(min_length=1, max_length=100)]
    path: Annotated[Text, Field(min_length=1, max_length=1000)]


class AdapterCard(ResponseModel):
    """A LoRA that requests may ask for."""

    id: str
    object: Literal["adapter"]


class AdapterList(ResponseModel):
    """All LoRAs that requests may ask for."""

    object: Literal["list"]
    data: list[AdapterCard]


class AdapterDeleted(ResponseModel):
    """A LoRA that no new request may ask for; so many accepted ones are still drawn with it."""

    id: str
    object: Literal["adapter"]
    deleted: bool
    requests: int


class AdapterRoutes:
    """What an administrator may change."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler = handler

    async def list(self, request: Any) -> Any:
        """Every adapter."""
        self._authorize(request)
        cards = [AdapterCard(id=name, object="adapter") for name in self._handler.engine.model.loras]
        return json_response(AdapterList(object="list", data=cards))

    async def add(self, request: Any) -> Any:
        """Load one in all workers."""
        from starlette.concurrency import run_in_threadpool

        self._authorize(request)
        limits = self._handler.config.limits
        asked = read_body(AdapterRequest, await read_json(request, limits), limits)
        await run_in_threadpool(self._add, asked)
        return json_response(AdapterCard(id=asked.name, object="adapter"), 201)

    async def remove(self, request: Any) -> Any:
        """Take one out of all workers, once what was accepted with it is drawn."""
        from starlette.concurrency import run_in_threadpool

        self._authorize(request)
        name = request.path_params["name"]
        try:
            count = await run_in_threadpool(self._handler.engine.remove_adapter, name)
        except ValueError as error:
            raise ApiError(404, str(error), param="name", code="adapter_not_found") from error
        return json_response(AdapterDeleted(id=name, object="adapter", deleted=True, requests=count))

    def _add(self, asked: AdapterRequest) -> None:
        folder = self._handler.config.adapter_dir
        if folder is None:
            raise ApiError(
                403, "this server has no folder for adapters (--adapter-folder)", code="no_adapter_folder"
            )
        path = _within(folder, asked.path)
        try:
            self._handler.engine.add_adapter(asked.name, str(path))
        except NameTaken as error:
            raise ApiError(409, str(error), param="name", code="adapter_exists") from error
        except EngineError as error:
            raise from_engine(error) from error
        except (ValueError, OSError, MemoryError) as error:
            message = str(error).replace(f"{folder.resolve()}/", "")  # where the folder is says nothing here
            raise invalid(message or f"{asked.path} does not fit into memory", "path") from error

    def _authorize(self, request: Any) -> None:
        """`ApiError` unless the request brings an administrator's key."""
        config = self._handler.config
        if config.admin_keys.is_open:
            raise ApiError(
                403, "adapters cannot be changed here: no --admin-key-file was given", code="no_admin_keys"
            )
        authorization = request.headers.get("authorization")
        try:
            request.state.owner = config.admin_keys.owner(authorization, "")
        except ApiError:
            if not config.keys.is_open:
                self._handler.authenticate(request)  # 401 where the key is not known at all
                raise ApiError(
                    403, "this key may draw, and not change adapters", code="not_an_admin"
                ) from None
            raise


def _within(folder: Path, given: str) -> Path:
    """The file or folder of an adapter. `ApiError` where it is not there, or outside."""
    root = folder.resolve()
    try:
        path = (root / given).resolve()
        is_inside = path != root and path.is_relative_to(root)
        is_there = is_inside and (path.is_file() or path.is_dir())
    except (OSError, ValueError, RuntimeError):  # names the system cannot read, or a ring of links
        is_inside = is_there = False
    if not is_inside:
        raise invalid(
            f"{given} is not below the server's folder for adapters; give a path relative to it", "path"
        )
    if not is_there:
        raise invalid(f"there is nothing at {given} in the server's folder for adapters", "path")
    return path
