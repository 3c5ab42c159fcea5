"""`/api/validate-yaml`, `agent-harnesses`, telemetry, and the answer for what is not offered."""

from __future__ import annotations

import msgspec

from fust.core.errors import NotFound, NotOffered
from fust.core.i18n import accepted_language
from fust.hub.card_check import check_card
from fust.hub.http import Reply, Request, Surface, json_reply
from fust.hub.routing import BODY, Route


class ValidateYaml(msgspec.Struct):
    """Body of `/api/validate-yaml`."""

    content: str = ""
    repoType: str | None = None


def validate_yaml(surface: Surface, request: Request) -> Reply:
    """`POST /api/validate-yaml`: errors and warnings of a card; JSON whatever happens, for the client reads it first."""
    del surface
    language = accepted_language(request.headers.get("accept-language"))
    found = check_card(request.decode(ValidateYaml).content[:1_000_000], language)
    drawn = {
        "errors": [{"message": text} for text in found.errors],
        "warnings": [{"message": text} for text in found.warnings],
    }
    return json_reply(drawn, 400 if found.errors else 200)


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
