"""Between HTTP and the engine: who asks, a job made of a validated body, and its events until it ends.

A client that hangs up has its pictures dropped before the next step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from deepgen.data.image_files import misfit
from deepgen.image_sizes import SizeRules
from deepgen.serving.answers import Answer, event_lines
from deepgen.serving.bodies import read_body
from deepgen.serving.config import ServeConfig
from deepgen.serving.errors import ApiError, from_engine, invalid
from deepgen.serving.fetch import Fetcher
from deepgen.serving.images import Fetch
from deepgen.serving.jobs import (
    EngineError,
    EngineProtocol,
    Event,
    GenerationRequest,
    ImageDone,
    Job,
    JobDone,
)
from deepgen.serving.references import ReferenceFiles, ReferenceReader, References
from deepgen.serving.schema import (
    B,
    ChatCompletionRequest,
    ImageEditForm,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageVariationForm,
    limited,
)
from deepgen.uploads.budget import ServerBudget

REQUESTS = (
    ImageGenerationRequest,
    ImageEditRequest,
    ImageEditForm,
    ImageVariationForm,
    ChatCompletionRequest,
)
ImageRequest = ImageGenerationRequest | ImageVariationForm

_LOOK_S = 0.5  # seconds between two looks whether the client is still there
_PING_S = 10.0  # seconds without an event after which a stream says that it lives


class RequestHandler:
    """What routes that draw share.

    Args:
        engine: draws.
        config: who may ask, and for what. The models of its requests are made here once.
    """

    def __init__(self, engine: EngineProtocol, config: ServeConfig) -> None:
        self.engine, self.config = engine, config
        self._fetch = Fetcher(config.image_hosts) if config.image_hosts else None
        limits = config.limits
        self.budget = ServerBudget.of(limits.max_bodies_mib << 20, limits.max_held_pixels)
        self._references = ReferenceReader(limits, self._size_rules, self.budget.decoding)
        loras = engine.model.loras
        self.models: dict[type, type] = {model: limited(model, config.limits, loras) for model in REQUESTS}

    def read(self, model: type[B], given: Mapping[str, Any], *, is_form: bool = False) -> B:
        """A body within this server's bounds; `ApiError` names what is wrong."""
        return read_body(self.models[model], given, self.config.limits, is_form=is_form)

    def fetch(self, request: Any) -> Fetch | None:
        """How addresses are fetched for a request, which holds what comes; None where they are not."""
        fetch = self._fetch
        if fetch is None:
            return None

        def counted(address: str, param: str) -> bytes:
            content = fetch(address, param)
            request.state.memory.bodies.add(len(content))
            return content

        return counted

    def authenticate(self, request: Any) -> str:
        """The name of the client; `ApiError` 401 where it has no known key."""
        address = request.client.host if request.client else ""
        owner = self.config.keys.owner(request.headers.get("authorization"), address)
        request.state.owner = owner
        request.state.key = None if self.config.keys.is_open else owner
        return owner

    async def submit(
        self,
        request: Any,
        fields: ImageRequest,
        files: ReferenceFiles | None = None,
    ) -> tuple[Job, asyncio.Queue[Event]]:
        """A job, and where its events will come; `ApiError` where it is refused.

        Args:
            request: whose client `authenticate` knows.
            fields: what is asked.
            files: pictures to edit, and a mask; None draws from the prompt alone.
        """
        from starlette.concurrency import run_in_threadpool

        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()
        try:
            references = await self._references.read(request.state.memory, files or ReferenceFiles(), fields)
        except ValueError as error:
            raise _invalid(error) from error

        def pass_on(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def submit() -> Job:
            asked = self._generation_request(request.state.owner, fields, references)
            self.config.hooks.check_request(asked)
            return self.engine.submit(asked, pass_on)

        try:
            job = await run_in_threadpool(submit)
        except EngineError as error:
            raise from_engine(error) from error
        except ValueError as error:
            raise _invalid(error) from error
        words = f"{fields.prompt} {fields.negative_prompt}" if self.config.metadata else ""
        if reason := misfit(fields.output_format, job.info.size, words):
            job.cancel()
            raise invalid(f"output_format: {reason}", "output_format")
        request.state.job = job
        return job, events

    def _generation_request(
        self, owner: str, fields: ImageRequest, references: References
    ) -> GenerationRequest:
        """The engine's request."""
        limits = self.config.limits
        height, width = fields.sides
        usual = self.engine.model.usual_steps(fields.preset)
        return GenerationRequest(
            prompt=fields.prompt,
            images=references.images,
            mask=references.mask,
            negative_prompt=fields.negative_prompt,
            height=height,
            width=width,
            num_inference_steps=fields.steps(usual, limits.max_steps),
            guidance_scale=fields.scale,
            preset=fields.preset,
            solver=fields.solver,
            num_images=fields.n,
            seed=fields.seed,
            lora=fields.lora,
            num_previews=fields.partial_images if fields.stream else 0,
            source_size=references.source_size,
            remarks=references.remarks,
            key=owner,
            timeout_s=limits.timeout_s,
        )

    def _size_rules(self) -> SizeRules:
        """What the model draws; hints for another size keep to the server's own limit too."""
        info = self.engine.model
        return SizeRules(
            info.size_unit,
            info.max_side,
            info.defaults["height"],
            info.defaults["width"],
            most_pixels=self.config.limits.max_pixels,
        )

    async def collect(self, request: Any, job: Job, events: asyncio.Queue[Event]) -> list[ImageDone]:
        """All pictures of a job, in order; a client that leaves cancels it."""
        drawn: dict[int, ImageDone] = {}
        looked = time.monotonic()
        try:
            while True:
                try:
                    event = await asyncio.wait_for(events.get(), _LOOK_S)
                except TimeoutError:
                    event = None
                if isinstance(event, ImageDone):
                    drawn[event.index] = event
                if isinstance(event, JobDone):
                    if event.error is not None:
                        raise from_engine(event.error) from event.error
                    return [drawn[index] for index in sorted(drawn)]
                if time.monotonic() - looked > _LOOK_S:
                    looked = time.monotonic()
                    if await request.is_disconnected():
                        raise ApiError(499, "the client left", code="cancelled")
        finally:
            job.cancel()

    async def events(self, answer: Answer, events: asyncio.Queue[Event]) -> AsyncIterator[Event | str]:
        """Events to be sent as bodies, and between them lines that can be sent as they are.

        Starlette ends this generator when the client leaves; the job is then cancelled.
        """
        try:
            while True:
                try:
                    event = await asyncio.wait_for(events.get(), _PING_S)
                except TimeoutError:
                    yield ": still drawing\n\n"
                    continue
                yield event
                if isinstance(event, JobDone):
                    if event.error is not None:
                        yield event_lines("error", from_engine(event.error).response())
                    yield "data: [DONE]\n\n"
                    return
        finally:
            answer.job.cancel()


def _invalid(error: ValueError) -> ApiError:
    """The refusal of a value, whose message begins with the field's name."""
    first = str(error).partition(" ")[0]
    return invalid(
        str(error), first if first in ("size", "mask", "prompt", "lora", "solver", "preset") else None
    )
