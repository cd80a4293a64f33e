"""What the engine tells, in the words the client reads: files, fields and events."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from deepgen.data.resize import enlarged_from
from deepgen.serving.config import ServeConfig
from deepgen.serving.fields import Fields
from deepgen.serving.images import to_base64, write_image
from deepgen.serving.jobs import Drawn, Event, Job, Placed, Preview, Progress


@dataclass(frozen=True)
class Answer:
    """Turns what the engine tells into what the client reads."""

    job: Job
    fields: Fields
    kind: str  # "image_generation" or "image_edit"
    config: ServeConfig

    def common(self, created: str) -> dict[str, Any]:
        """What every answer and event tells; `created` names the field of the time."""
        height, width = self.job.facts.size
        known = {
            created: int(time.time()),
            "model": self.config.model_name,
            "size": f"{width}x{height}",
            "drawn_size": "{1}x{0}".format(*self.job.facts.drawn_size),
            "quality": {"standard": "auto", "hd": "high"}.get(self.fields.quality, self.fields.quality),
            "background": "opaque",
            "output_format": self.fields.output_format,
        }
        if self.fields.safety_identifier:
            known["safety_identifier"] = self.fields.safety_identifier
        if self.warnings:
            known["warnings"] = self.warnings
        return known

    @property
    def notice(self) -> str:
        """What is said of pictures that were drawn smaller than they are; nothing of others."""
        return enlarged_from(self.job.facts.drawn_size, self.job.facts.size)

    @property
    def warnings(self) -> list[str]:
        """What the client should know beside its pictures: prompts that were cut, and what of a prompt is
        not of a small model's world.
        """
        return [*self._cuts, *self.job.facts.world_warnings]

    @property
    def _cuts(self) -> list[str]:
        return [str(cut) for cut in self.job.facts.prompt_cuts]

    @property
    def remarks(self) -> str:
        """Everything that is said beside the pictures, a line each."""
        return "\n".join(filter(None, [self.notice, *self.warnings]))

    def usage(self, num_images: int) -> dict[str, Any]:
        """Tokens read and drawn, in the client's words."""
        facts = self.job.facts
        drawn = facts.num_image_tokens * num_images
        read = facts.num_text_tokens + facts.num_reference_tokens
        return {
            "input_tokens": read,
            "input_tokens_details": {
                "text_tokens": facts.num_text_tokens,
                "image_tokens": facts.num_reference_tokens,
            },
            "output_tokens": drawn,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": drawn},
            "total_tokens": read + drawn,
        }

    def file(self, image: Drawn) -> bytes:
        """The picture as it is sent; `ApiError` where a hook objects to it."""
        self.config.hooks.check_image(self.job.request, image.image)
        record = None
        if self.config.metadata:
            facts = self.job.facts
            record = facts.settings.record(
                prompt=self.job.request.prompt,
                seed=image.seed,
                model=self.config.model_name,
                size=(image.image.height, image.image.width),
                drawn_size=facts.drawn_size,
                prompt_cuts=self._cuts,
            )
        kind = self.fields.output_format
        content = write_image(image.image, kind, self.fields.output_compression, record)
        if self.config.credentials is None:
            return content
        return self.config.credentials.sign(content, kind, is_edit=bool(self.job.request.images))

    def events(self, event: Event) -> list[tuple[str, dict[str, Any]]]:
        """(type, body) of what is sent for an event."""
        if isinstance(event, Preview):
            if self.config.hooks.after:  # nobody has looked at it
                return []
            content = write_image(event.image, self.fields.output_format)
            body = {"b64_json": to_base64(content), "partial_image_index": event.number}
            return [
                (f"{self.kind}.partial_image", {**self.common("created_at"), **body, "index": event.index})
            ]
        if isinstance(event, Drawn):
            body = {"b64_json": to_base64(self.file(event)), "usage": self.usage(1), "seed": event.seed}
            return [(f"{self.kind}.completed", {**self.common("created_at"), **body, "index": event.index})]
        if not self.fields.include_progress:
            return []
        name = f"{self.kind}.progress"
        if isinstance(event, Placed):
            return [(name, {"waiting": event.ahead})]
        if isinstance(event, Progress):
            return [(name, {"index": event.index, "step": event.step, "num_steps": event.num_steps})]
        return []


def data_line(body: dict[str, Any]) -> str:
    """A server-sent event without a name."""
    return f"data: {json.dumps(body)}\n\n"


def event_lines(name: str, body: dict[str, Any]) -> str:
    """A server-sent event with its name."""
    return f"event: {name}\ndata: {json.dumps(body)}\n\n"
