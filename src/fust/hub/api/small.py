"""`/api/validate-yaml`, `agent-harnesses`, telemetry, and the answer for what is not offered."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fust.core.errors import NotFound, NotOffered
from fust.hub.cards import parse_card
from fust.hub.draw import Json
from fust.hub.http import Reply, Request, Surface, json_reply
from fust.hub.routing import BODY, Route


class ValidateYaml(msgspec.Struct):
    """Body of `/api/validate-yaml`."""

    content: str = ""
    repoType: str | None = None


def validate_yaml(surface: Surface, request: Request) -> Reply:
    """`POST /api/validate-yaml`: the client wants JSON whatever happens."""
    del surface
    card = parse_card(request.decode(ValidateYaml).content[:1_000_000])
    errors: Sequence[Json] = [{"message": f"YAML metadata: {card.error}"}] if card.error else []
    warnings: Sequence[Json] = (
        [] if card.data or card.error else [{"message": "empty or missing yaml metadata"}]
    )
    return json_reply({"errors": errors, "warnings": warnings}, 400 if card.error else 200)


def agent_harnesses(surface: Surface, request: Request) -> Reply:
    """`GET /api/agent-harnesses`: 2.x asks at every start."""
    del surface, request
    return json_reply({})


def not_offered(surface: Surface, request: Request, path: str = "") -> Reply:
    """Answers parts of the Hub's API that Fust does not have."""
    del surface, path
    raise NotOffered(
        "{method} /{path} is not offered by this hub.",
        hint="docs/reference/hub-contract.md lists what is.",
        method=request.method,
        path="/".join(request.segments)[:200],
    )


def telemetry(surface: Surface, request: Request, path: str = "") -> Reply:
    """Telemetry is drained and forgotten."""
    del surface, request, path
    raise NotFound("Nothing is collected here.")


ROUTES = (
    Route("GET", "/api/agent-harnesses", agent_harnesses),
    Route("POST", "/api/validate-yaml", validate_yaml, BODY),
)
LAST_ROUTES = (
    *(Route(m, "/api/telemetry/{path*}", telemetry, BODY) for m in ("GET", "HEAD", "POST")),
    *(Route(m, "/api/{path*}", not_offered) for m in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")),
)
"""Asked after all others."""
