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
from deepgen.serving.bodies import read_body, shown_text
from deepgen.serving.config import ServeConfig
from deepgen.serving.errors import ApiError, from_engine, invalid
from deepgen.serving.fetch import Fetcher
from deepgen.serving.images import Fetch, ImageStore
from deepgen.serving.jobs import (
    EngineError,
    EngineProtocol,
    Event,
    GenerationRequest,
    ImageDone,
    Job,
    JobDone,
)
from deepgen.serving.openai_fields import ALIAS_BEGINNINGS, is_alias
from deepgen.serving.references import AskedSize, ReferenceFiles, ReferenceReader, References
from deepgen.serving.responses_schema import ResponsesRequest
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
    ResponsesRequest,
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
        self.store = ImageStore()
        self._fetcher = Fetcher(config.image_hosts) if config.image_hosts else None
        limits = config.limits
        self.budget = ServerBudget.of(limits.max_bodies_mib << 20, limits.max_held_pixels)
        self._references = ReferenceReader(limits, self._size_rules, self.budget.decoding)
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

    def check_model(self, name: str | None, param: str = "model") -> None:
        """`ApiError` 404 where a request asks for another model than there is.

        OpenAI's own names stand for it, because clients send them by themselves.
        """
        config = self.config
        if name is None or name == config.model_name or name in config.model_aliases or is_alias(name):
            return
        also = ", ".join(f"{beginning}*" for beginning in ALIAS_BEGINNINGS)
        raise ApiError(
            404,
            f"model {shown_text(name)!r} is not loaded here; leave model out or ask for {config.model_name} "
            f"(names of OpenAI's, {also}, stand for it)",
            param=param,
            code="model_not_found",
        )

    def fetch(self, request: Any) -> Fetch:
        """How addresses are read for a request, which holds what comes: those of pictures that this server
        keeps, and those of hosts that may be asked.
        """

        def counted(address: str, param: str) -> bytes:
            content = self._at(address, param)
            request.state.memory.bodies.add(len(content))
            return content

        return counted

    def _at(self, address: str, param: str) -> bytes:
        name = self.store.name_in(address)
        kept = None if name is None else self.store.get(name)
        if kept is not None:
            return kept[0]
        if self._fetcher is not None:
            return self._fetcher(address, param)
        also = " and that of a picture kept here is of no picture, or no longer" if name else ""
        raise invalid(
            f"{param} must be data:image/...;base64,...; other addresses are not fetched{also}",
            param,
            "invalid_image",
        )

    def keep(self, request: Any, content: bytes, output_format: str, name: str | None = None) -> str:
        """The address under which a file is kept for a while."""
        name = self.store.put(content, f"image/{output_format}", name)
        return str(request.base_url.replace(path=f"/v1/images/{name}/content"))

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

        self.check_model(getattr(fields, "model", None))
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()
        try:
            size = self._asked_size(fields.n, *fields.sides)
            references = await self._references.read(
                request.state.memory,
                files or ReferenceFiles(),
                size,
                is_first_kept=self._keeps_unchanged(fields),
            )
        except ValueError as error:
            raise _invalid(error) from error

        def pass_on(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def submit() -> Job:
            asked = self._generation_request(request.state.owner, fields, references, size)
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

    def _keeps_unchanged(self, fields: ImageRequest) -> bool:
        """Whether an edit keeps pixels of its source: as asked, or as the model does by itself."""
        own = bool(self.engine.model.defaults.get("keep_unchanged"))
        return own if fields.keep_unchanged is None else fields.keep_unchanged

    def _generation_request(
        self, owner: str, fields: ImageRequest, references: References, size: AskedSize
    ) -> GenerationRequest:
        """The engine's request."""
        limits = self.config.limits
        usual = self.engine.model.usual_steps(fields.preset)
        return GenerationRequest(
            prompt=fields.prompt,
            images=references.images,
            mask=references.mask,
            negative_prompt=fields.negative_prompt,
            height=size.height,
            width=size.width,
            final_size=size.final,
            num_inference_steps=fields.steps(usual, limits.max_steps),
            guidance_scale=fields.scale,
            preset=fields.preset,
            solver=fields.solver,
            keep_unchanged=fields.keep_unchanged,
            num_images=fields.n,
            seed=fields.seed,
            lora=fields.lora,
            num_previews=fields.partial_images if fields.stream else 0,
            source_size=references.source_size,
            remarks=references.remarks,
            key=owner,
            timeout_s=limits.timeout_s,
        )

    def _asked_size(self, n: int, height: int | None, width: int | None) -> AskedSize:
        """What is to be drawn, and what it is brought to where what was asked for is no size of the model."""
        if height is None and width is None:
            return AskedSize(n)
        rules = self._size_rules()
        asked = (rules.height if height is None else height, rules.width if width is None else width)
        if asked[0] * asked[1] > self.config.limits.max_pixels:  # one side may be the model's own
            most = self.config.limits.max_pixels
            raise invalid(f"{asked[1]}x{asked[0]} has more than the {most:,} pixels allowed", "size")
        if not self.config.fits_sizes:
            rules.check(*asked)
        drawn = rules.fit(*asked)
        return AskedSize(n, *drawn, final=None if drawn == asked else asked)

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
        str(error),
        first if first in ("size", "mask", "prompt", "lora", "solver", "preset", "keep_unchanged") else None,
    )
