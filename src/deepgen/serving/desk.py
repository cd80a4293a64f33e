"""Between HTTP and the engine: who asks, a job made of checked fields, and its events until it ends.

Whoever hangs up has his pictures dropped before the next step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from deepgen.data.image_files import misfit
from deepgen.image_sizes import SizeRules
from deepgen.serving.answers import Answer, event_lines
from deepgen.serving.config import ServeConfig
from deepgen.serving.errors import ApiError, from_engine, invalid
from deepgen.serving.fetch import Fetcher
from deepgen.serving.fields import Fields
from deepgen.serving.images import read_image, read_mask
from deepgen.serving.jobs import Drawn, DrawRequest, Draws, Ended, EngineError, Event, Job

_LOOK_S = 0.5  # seconds between two looks whether the client is still there
_PING_S = 10.0  # seconds without an event after which a stream says that it lives


class Desk:
    """What routes that draw share. `engine`, `config`: what they work with."""

    def __init__(self, engine: Draws, config: ServeConfig) -> None:
        self.engine, self.config = engine, config
        self.fetch = Fetcher(config.image_hosts) if config.image_hosts else None

    def owner(self, request: Any) -> str:
        """Who asks; `ApiError` 401 where nobody known does."""
        address = request.client.host if request.client else ""
        owner = self.config.keys.owner(request.headers.get("authorization"), address)
        request.state.owner = owner
        return owner

    async def submit(
        self,
        request: Any,
        owner: str,
        fields: Fields,
        images: Sequence[bytes] | None,
        mask: bytes | None,
    ) -> tuple[Job, asyncio.Queue[Event]]:
        """A job, and where its events will come; `ApiError` where it is refused."""
        from starlette.concurrency import run_in_threadpool

        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def pass_on(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def submit() -> Job:
            asked = self._draw_request(owner, fields, images, mask)
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
        if reason := misfit(fields.output_format, job.facts.size, words):
            job.cancel()
            raise invalid(f"output_format: {reason}", "output_format")
        request.state.job = job.id
        return job, events

    def _draw_request(
        self, owner: str, fields: Fields, pictures: Sequence[bytes] | None, mask: bytes | None
    ) -> DrawRequest:
        """The engine's request; opens the pictures."""
        limits, images = self.config.limits, ()
        if pictures is not None:
            if not pictures:
                raise invalid(
                    "image is missing; send one file or several", "image", "missing_required_parameter"
                )
            if len(pictures) > limits.max_references:
                raise invalid(f"{len(pictures)} pictures; the limit is {limits.max_references}", "image")
            images = tuple(read_image(content, "image", limits.max_reference_pixels) for content in pictures)
        if fields.height is not None or fields.width is not None:
            self._size_rules().drawn(None, 1, fields.height, fields.width)
        usual = self.engine.model.usual_steps(fields.preset)
        return DrawRequest(
            prompt=fields.prompt,
            images=images,
            mask=None if mask is None else read_mask(mask, limits.max_reference_pixels),
            negative_prompt=fields.negative_prompt,
            height=fields.height,
            width=fields.width,
            num_inference_steps=fields.steps(usual, limits.max_steps),
            guidance_scale=fields.guidance_scale,
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
        facts = self.engine.model
        return SizeRules(
            facts.size_unit,
            facts.max_side,
            facts.defaults["height"],
            facts.defaults["width"],
            most_pixels=self.config.limits.max_pixels,
        )

    async def collect(self, request: Any, job: Job, events: asyncio.Queue[Event]) -> list[Drawn]:
        """All pictures of a job, in order; a client that leaves cancels it."""
        drawn: dict[int, Drawn] = {}
        looked = time.monotonic()
        try:
            while True:
                try:
                    event = await asyncio.wait_for(events.get(), _LOOK_S)
                except TimeoutError:
                    event = None
                if isinstance(event, Drawn):
                    drawn[event.index] = event
                if isinstance(event, Ended):
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
        """Events to be put into words, and between them lines that can be sent as they are.

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
                if isinstance(event, Ended):
                    if event.error is not None:
                        yield event_lines("error", from_engine(event.error).body())
                    yield "data: [DONE]\n\n"
                    return
        finally:
            answer.job.cancel()
