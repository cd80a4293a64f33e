"""Safety hooks: functions of others that look at a request before it is drawn, and at every picture after.

A hook is named `package.module:function`. `before` hooks get the `GenerationRequest`, `after` hooks the same
and the picture; a hook that objects raises `Refusal`. A hook that fails in any other way refuses as well, so
that no fault of a checker lets through what it should have checked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from PIL import Image

from deepgen.serving.errors import ApiError
from deepgen.serving.jobs import GenerationRequest, new_error_id

logger = logging.getLogger(__name__)

Before = Callable[[GenerationRequest], object]
After = Callable[[GenerationRequest, Image.Image], object]


class Refusal(Exception):
    """This should not be drawn, or not be shown; the message is for the client."""


@dataclass(frozen=True)
class Hooks:
    """What looks at requests and pictures; called from threads, several at once."""

    before: Sequence[Before] = ()
    after: Sequence[After] = ()

    @staticmethod
    def load(before: Sequence[str], after: Sequence[str]) -> Hooks:
        """Import them; ValueError names the one that cannot be."""
        return Hooks([_find(name) for name in before], [_find(name) for name in after])

    def check_request(self, request: GenerationRequest) -> None:
        """`ApiError` 400 where a hook objects."""
        for hook in self.before:
            _ask(hook, request)

    def check_image(self, request: GenerationRequest, image: Image.Image) -> None:
        """`ApiError` 400 where a hook objects."""
        for hook in self.after:
            _ask(hook, request, image)


def _ask(hook: Callable[..., object], *arguments: object) -> None:
    try:
        hook(*arguments)
    except Refusal as refusal:
        raise ApiError(400, str(refusal), code="content_policy_violation") from refusal
    except Exception as error:  # whatever it is, what was not checked is not let through
        error_id = new_error_id()
        logger.exception("a safety hook failed [%s]", error_id)
        message = f"the request could not be checked; the server's log tells more under {error_id}"
        raise ApiError(500, message, code="check_failed") from error


def _find(name: str) -> Callable[..., object]:
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"hook {name!r} cannot be imported ({error}); give package.module:function"
        ) from error
    if not callable(found):
        raise ValueError(f"hook {name!r} is no function")
    return found
