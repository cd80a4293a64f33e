"""Rules and keys around an ASGI application that has none: tools for agents, and rewards."""

from __future__ import annotations

from typing import Any

from deepgen.http_access import AccessMiddleware, AccessRules
from deepgen.json_values import json_text
from deepgen.serving.config import ApiKeys
from deepgen.serving.errors import ApiError, refusal_body


def guarded(app: Any, keys: ApiKeys, rules: AccessRules) -> Any:
    """The application for requests that the rules take, from those who hold a key; probes need none."""

    async def with_key(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] not in rules.probes:
            from starlette.responses import Response

            given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            try:
                keys.owner(given, "")
            except ApiError as error:
                refused = Response(json_text(error.body()), error.status, error.headers(), "application/json")
                await refused(scope, receive, send)
                return
        await app(scope, receive, send)

    return AccessMiddleware(with_key, rules, refusal_body)
