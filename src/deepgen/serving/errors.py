"""Errors as the OpenAI clients read them, and which error of the engine becomes which."""

from __future__ import annotations

import math
from typing import Any

from deepgen.extras import missing_extra
from deepgen.http_access import AccessRefusal
from deepgen.serving.jobs import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    EngineError,
    NoWorker,
    OutOfMemory,
    QueueFull,
)

try:
    from pydantic import BaseModel
except ImportError as error:
    raise missing_extra("serving needs pydantic", "serve", error) from error

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ResponseModel(BaseModel):
    """A body of an answer."""

    def values(self) -> dict[str, Any]:
        """As JSON values; a field that is not set is left out."""
        return self.model_dump(exclude_unset=True)


class ErrorDetail(ResponseModel):
    """What went wrong: `message` for people, `code` for programs, `param` the field that is at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(ResponseModel):
    """A refusal, in the form of the OpenAI clients."""

    error: ErrorDetail


class ApiError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        message: for people; must hold nothing of the server's insides.
        param: the field that is at fault.
        code: a word for programs.
        retry_after: seconds after which trying again makes sense; None where it does not.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    def response(self) -> ErrorResponse:
        """The body."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        detail = ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code)
        return ErrorResponse(error=detail)

    def body(self) -> dict[str, Any]:
        """The body as JSON values."""
        return self.response().values()

    def headers(self) -> dict[str, str]:
        """When to try again, or that trying again is in vain."""
        if self.retry_after is not None:
            return {"retry-after": str(max(1, math.ceil(self.retry_after)))}
        headers = {"x-should-retry": "false"}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """A 400 about one field."""
    return ApiError(400, message, param=param, code=code)


def refusal_body(refusal: AccessRefusal) -> dict[str, Any]:
    """What is answered to a request that `http_access` does not take."""
    return ApiError(refusal.status, refusal.message, code=refusal.code).body()


def from_engine(error: EngineError) -> ApiError:
    """The refusal that an engine's error becomes."""
    message = str(error)
    if isinstance(error, QueueFull):
        return ApiError(429, f"{message}; try again later", code=error.code, retry_after=error.retry_after)
    if isinstance(error, Draining | NoWorker):
        return ApiError(503, message, code=error.code, retry_after=5)
    if isinstance(error, DeadlineExceeded):
        return ApiError(504, message, code=error.code)
    if isinstance(error, OutOfMemory):
        return ApiError(400, message, param="size", code=error.code)
    if isinstance(error, Cancelled):
        return ApiError(499, message, code=error.code)
    return ApiError(500, message, code=error.code)
