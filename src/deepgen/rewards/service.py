"""An HTTP service for rewards, so that they can run on another machine than the training.

`GET /health` tells which rewards are there; `POST /score` judges candidates (see `wire.py` for the format).
A candidate that cannot be read gets a verdict without a score, and its neighbours are judged all the same.
Who may ask is decided around it: `deepgen rewards serve` puts keys and allowed names there.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from deepgen.extras import missing_extra
from deepgen.json_values import json_text, read_json_text
from deepgen.moved import renamed
from deepgen.rewards.reading import RequestImages
from deepgen.rewards.reward import Candidate, CannotJudge, Reward, RewardResult, RewardUnavailable, ask
from deepgen.rewards.wire import candidate_from_json, describe, result_to_json
from deepgen.uploads.budget import OverBudget, ServerBudget
from deepgen.uploads.decoding import UploadLimits
from deepgen.uploads.middleware import MemoryMiddleware, RequestMemory, refusal

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """What requests may hold.

    Attributes:
        max_batch: candidates of one request.
        max_body_mib: MiB of one request.
        body_timeout_s: seconds in which a body has to arrive.
        max_bodies_mib: MiB of all requests together; each counts twice, as bytes and as text.
        max_pixels: decoded pixels of all requests together; a picture that comes several times in one
            request counts once.
        max_kept_pixels: of one picture; a larger one is scaled down while it is decoded.
    """

    max_batch: int = 64
    max_body_mib: int = 256
    body_timeout_s: float = 120.0
    max_bodies_mib: int = 768
    max_pixels: int = 160 * 2**20
    max_kept_pixels: int = 4 * 2**20

    def budget(self) -> ServerBudget:
        """Of all requests together."""
        return ServerBudget.of(self.max_bodies_mib << 20, self.max_pixels)


class RequestRefusal(Exception):
    """A request that is not answered with verdicts: an HTTP status and why."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.headers = status, dict(headers or {})


def make_app(rewards: Mapping[str, Reward], config: ServiceConfig | None = None) -> Any:
    """The FastAPI application, for uvicorn or any other ASGI server; ImportError says what to install."""
    try:
        from fastapi import FastAPI
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import ClientDisconnect
        from starlette.responses import Response
    except ImportError as error:
        raise missing_extra("serving rewards needs FastAPI", "serve", error) from error

    config = config or ServiceConfig()
    host = Host(rewards, config)
    app = FastAPI(title="deepgen rewards", openapi_url=None)

    def answered(
        values: dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        return Response(json_text(values), status, headers, media_type="application/json")

    async def health(request: Any) -> Response:
        return answered(host.health())

    async def score(request: Any) -> Response:
        try:
            memory = request.state.memory
            _check_type(request.headers.get("content-type", ""))
            reading = _read_body(request, config.max_body_mib << 20)
            body = await asyncio.wait_for(reading, config.body_timeout_s)
            memory.bodies.add(len(body))  # as text
            return answered(await run_in_threadpool(host.score, body, memory))
        except OverBudget as error:
            refused = over_budget(error)
        except RequestRefusal as error:
            refused = error
        except TimeoutError:
            refused = RequestRefusal(408, "the request took too long to arrive")
        except ClientDisconnect:  # nobody reads this
            refused = RequestRefusal(499, "the client left before its request was complete")
        return answered({"error": str(refused)}, refused.status, refused.headers)

    app.add_route("/health", health, methods=["GET"])
    app.add_route("/score", score, methods=["POST"])
    app.add_middleware(MemoryMiddleware, budget=host.budget)
    return app


class Streamed(Protocol):
    """A request whose body comes in pieces."""

    def stream(self) -> AsyncIterator[bytes]:
        """The pieces."""
        ...


def _check_type(content_type: str) -> None:
    """Only JSON: any web page may send text, and a browser asks nobody before it does."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise RequestRefusal(415, "send the request as application/json")


async def _read_body(request: Streamed, limit: int) -> bytes:
    """The body, read no further than the limit, whatever its header claims."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise RequestRefusal(
                413, f"the request is larger than {limit >> 20} MiB; send fewer candidates at once"
            )
    return bytes(body)


class Host:
    """What the service does, without the HTTP around it. Each reward runs `concurrency` calls at once."""

    def __init__(self, rewards: Mapping[str, Reward], config: ServiceConfig) -> None:
        self._rewards, self._config = dict(rewards), config
        self.budget = config.budget()
        self._slots = {name: threading.Semaphore(reward.concurrency) for name, reward in rewards.items()}

    def health(self) -> dict[str, Any]:
        """Status and what each reward declares."""
        return {"status": "ok", "rewards": {n: describe(n, reward) for n, reward in self._rewards.items()}}

    def score(self, body: bytes, memory: RequestMemory | None = None) -> dict[str, Any]:
        """The reply to a request, which holds its pictures in this memory; Refusal where there is none."""
        memory = memory or RequestMemory(self.budget)
        try:
            return self._score(body, memory)
        finally:
            memory.end()

    def _score(self, body: bytes, memory: RequestMemory) -> dict[str, Any]:
        name, sent = self._parse(body)
        reward = self._rewards[name]
        decode = RequestImages(
            memory.pixels, self.budget.decoding, UploadLimits(), self._config.max_kept_pixels
        )
        verdicts: dict[int, RewardResult] = {}
        readable: dict[int, Candidate] = {}
        for i, values in enumerate(sent):
            try:
                readable[i] = candidate_from_json(values, decode)
            except OverBudget as error:
                raise over_budget(error, i) from error
            except CannotJudge as error:
                verdicts[i] = RewardResult(None, str(error))
        try:
            if readable:
                with self._slots[name]:
                    judged = ask(reward, list(readable.values()))
                verdicts.update(zip(readable, judged, strict=True))
        except RewardUnavailable as error:
            raise RequestRefusal(502, f"{name} cannot be asked: {error}") from error
        except Exception as error:  # an error of the reward goes to the client; the service stays up
            logger.exception("reward %s failed", name)
            raise RequestRefusal(500, f"{name} failed with {type(error).__name__}: {error}") from error
        ordered = [result_to_json(verdicts[i]) for i in range(len(sent))]
        remarks = {"warnings": decode.remarks} if decode.remarks else {}
        return {**describe(name, reward), "verdicts": ordered, **remarks}

    def _parse(self, body: bytes) -> tuple[str, list[Any]]:
        try:
            request = read_json_text(body)
        except ValueError as error:
            raise RequestRefusal(400, f"the request is no JSON: {error}") from error
        if not isinstance(request, dict) or not isinstance(request.get("candidates"), list):
            raise RequestRefusal(400, "a request is an object with a list of candidates; see docs/rewards.md")
        name = request.get("reward")
        if not isinstance(name, str) or name not in self._rewards:
            shown = repr(name[:64]) if isinstance(name, str) else f"that is a {type(name).__name__}"
            raise RequestRefusal(
                404, f"there is no reward {shown} here; there are: {', '.join(self._rewards)}"
            )
        candidates = request["candidates"]
        if len(candidates) > self._config.max_batch:
            limit = self._config.max_batch
            raise RequestRefusal(413, f"{len(candidates)} candidates in one request; the limit is {limit}")
        return name, candidates


def over_budget(error: OverBudget, num_fitting: int = 0) -> RequestRefusal:
    """The refusal of a request that would hold too much, of which so many candidates did fit."""
    status, headers = refusal(error)
    hint = f"; {num_fitting} candidates would fit" if num_fitting else ""
    return RequestRefusal(status, f"{error}{hint}", headers)


__getattr__ = renamed(__name__, {"Refusal": "deepgen.rewards.service.RequestRefusal"})
