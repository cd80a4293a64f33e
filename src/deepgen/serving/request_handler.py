"""Between HTTP and the engine: who asks, a job made of a validated body, and its events until it ends.

A client that hangs up has its pictures dropped before the next step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from deepgen.data.image_files import misfit
from deepgen.image_sizes import SizeRules
from deepgen.serving.answers import Answer, event_lines
from deepgen.serving.bodies import read_body
from deepgen.serving.config import ServeConfig
from deepgen.serving.errors import ApiError, from_engine, invalid
from deepgen.serving.fetch import Fetcher
from deepgen.serving.images import read_image, read_mask
from deepgen.serving.jobs import (
    EngineError,
    EngineProtocol,
    Event,
    GenerationRequest,
    ImageDone,
    Job,
    JobDone,
)
from deepgen.serving.schema import (
    B,
    ChatCompletionRequest,
    ImageEditForm,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageVariationForm,
    limited,
)

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
        config: who may ask, and for what.
    """

    def __init__(self, engine: EngineProtocol, config: ServeConfig) -> None:
        self.engine, self.config = engine, config
        self.fetch = Fetcher(config.image_hosts) if config.image_hosts else None
        self._models: tuple[tuple[str, ...], dict[type, type]] | None = None

    @property
    def models(self) -> dict[type, type]:
        """Of each model of a request the one with this server's bounds and adapters; the same dictionary
        until an adapter comes or goes.
        """
        loras, made = self.engine.model.loras, self._models
        if made is None or made[0] != loras:
            limits = self.config.limits
            self._models = made = loras, {model: limited(model, limits, loras) for model in REQUESTS}
        return made[1]

    def read(self, model: type[B], given: Mapping[str, Any], *, is_form: bool = False) -> B:
        """A body within this server's bounds; `ApiError` names what is wrong."""
        return read_body(self.models[model], given, self.config.limits, is_form=is_form)

    def authenticate(self, request: Any) -> str:
        """The name of the client; `ApiError` 401 where it has no known key."""
        address = request.client.host if request.client else ""
        owner = self.config.keys.owner(request.headers.get("authorization"), address)
        request.state.owner = owner
        return owner

    async def submit(
        self,
        request: Any,
        fields: ImageRequest,
        images: Sequence[bytes] | None = None,
        mask: bytes | None = None,
    ) -> tuple[Job, asyncio.Queue[Event]]:
        """A job, and where its events will come; `ApiError` where it is refused.

        Args:
            request: whose client `authenticate` knows.
            fields: what is asked.
            images: files to edit; None draws from the prompt alone.
            mask: file of the mask.
        """
        from starlette.concurrency import run_in_threadpool

        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def pass_on(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def submit() -> Job:
            asked = self._generation_request(request.state.owner, fields, images, mask)
            self.config.hooks.check_request(asked)
            return self.engine.submit(asked, pass_on)

        try:
            job = await run_in_threadpool(submit)
        except EngineError as error:
            raise from_engine(error) from error
        except ValueError as error:
            first = str(error).partition(" ")[0]
            raise invalid(
                str(error), first if first in ("size", "mask", "prompt", "lora", "solver", "preset") else None
            ) from error
        words = f"{fields.prompt} {fields.negative_prompt}" if self.config.metadata else ""
        if reason := misfit(fields.output_format, job.info.size, words):
            job.cancel()
            raise invalid(f"output_format: {reason}", "output_format")
        request.state.job = job.id
        return job, events

    def _generation_request(
        self, owner: str, fields: ImageRequest, files: Sequence[bytes] | None, mask: bytes | None
    ) -> GenerationRequest:
        """The engine's request; opens the images."""
        limits, files = self.config.limits, files or ()
        if len(files) > limits.max_references:  # of a chat; forms and JSON have been checked
            raise invalid(f"{len(files)} pictures; the limit is {limits.max_references}", "image")
        images = tuple(read_image(content, "image", limits.max_reference_pixels) for content in files)
        height, width = fields.sides
        if height is not None or width is not None:
            self._size_rules().drawn(None, 1, height, width)
        usual = self.engine.model.usual_steps(fields.preset)
        return GenerationRequest(
            prompt=fields.prompt,
            images=images,
            mask=None if mask is None else read_mask(mask, limits.max_reference_pixels),
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
